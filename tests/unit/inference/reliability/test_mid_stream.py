"""An answer that broke off is started again, continued or said to be broken: never passed off as whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.domain.call_policy import MidStream
from services.inference.domain.output_format import OutputFormat, OutputKind
from services.inference.domain.prompt import ToolDefinition
from services.inference.domain.reliability.mid_stream import GO_ON, Resumption, continued_prompt, resumption
from services.meshkit.content import Label, MessageRole, text_of
from tests.support.inference import USER, a_prompt

SEARCH = ToolDefinition(name="search", description="Searches.", input_schema={"type": "object"})


@given(st.sampled_from(MidStream))
def test_what_nobody_saw_is_started_again_without_a_word(policy: MidStream) -> None:
    assert resumption(policy, a_prompt(), shown="") is Resumption.SILENT


@pytest.mark.parametrize(
    ("policy", "then"),
    [
        (MidStream.FAIL, Resumption.FAIL),
        (MidStream.RESTART, Resumption.RESTART),
        (MidStream.CONTINUE, Resumption.CONTINUE),
    ],
)
def test_what_was_shown_goes_as_the_caller_said(policy: MidStream, then: Resumption) -> None:
    assert resumption(policy, a_prompt(), shown="It began.") is then


@pytest.mark.parametrize(
    "prompt", [a_prompt(tools=(SEARCH,)), a_prompt(output_format=OutputFormat(kind=OutputKind.JSON_OBJECT))]
)
def test_what_may_be_more_than_text_is_not_continued(prompt: object) -> None:
    assert resumption(MidStream.CONTINUE, prompt, shown="It") is Resumption.FAIL  # type: ignore[arg-type]


@given(st.text(min_size=1, max_size=400), st.integers(1, 200))
def test_the_one_that_continues_sees_what_was_shown_and_may_add_no_more_than_was_left(shown: str, most: int) -> None:
    prompt = a_prompt(max_output_tokens=most)
    continued = continued_prompt(prompt, shown=shown, label=USER)
    *before, answer, ask = continued.messages
    assert tuple(before) == prompt.messages
    assert (answer.role, text_of(answer.parts)) == (MessageRole.ASSISTANT, shown)
    assert text_of(ask.parts) == GO_ON
    assert 1 <= continued.max_output_tokens <= most
    assert continued.label(model="m").covers(USER.joined(prompt.label(model="m")))


def test_a_continuation_knows_no_more_than_the_answer_that_broke_off() -> None:
    continued = continued_prompt(a_prompt(), shown="It", label=Label())
    assert continued.messages[-1].parts[0].label == Label()
