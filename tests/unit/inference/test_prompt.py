"""What a prompt may be: each refusal names its field."""

from dataclasses import replace
from typing import Any, Final

import pytest

from services.inference.domain.output_format import OutputFormat, OutputKind
from services.inference.domain.prompt import (
    Prompt,
    ReasoningEffort,
    Sampling,
    ToolChoice,
    ToolChoiceMode,
    ToolDefinition,
)
from services.inference.domain.prompt_limits import SchemaProblems, checked_prompt
from services.meshkit.content import (
    BlobPart,
    ImagePart,
    Integrity,
    Label,
    Message,
    MessageRole,
    Part,
    ToolCallPart,
    ToolResultPart,
    text_part,
)
from services.meshkit.content.label import BOTTOM
from services.meshkit.core.errors import Invalid
from tests.support.inference import USER, a_message, a_prompt
from tests.support.pictures import a_png

CALL = Part(ToolCallPart(tool_call_id="c1", name="search", arguments={"q": "x"}), USER)
LONG_ID = Part(ToolCallPart(tool_call_id="c" * 257, name="search", arguments={}), USER)
NAMELESS = Part(ToolCallPart(tool_call_id="", name="search", arguments={}), USER)
RESULT = Part(ToolResultPart(tool_call_id="c1", name="search", text="found"), USER)
PICTURE = Part(ImagePart(media_type="image/png", data=a_png()), USER)


#: One level more than arguments may have, and than a message on the wire may have.
DEEP: Final = (25, 2_000)


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"properties": value}
    return value


def in_form(schema: dict[str, object]) -> OutputFormat:
    return OutputFormat(kind=OutputKind.JSON_SCHEMA, name="form", schema=schema)


def calling(arguments: dict[str, object]) -> Message:
    call = Part(ToolCallPart(tool_call_id="c1", name="search", arguments=arguments), USER)
    return said(MessageRole.ASSISTANT, call)


def said(role: MessageRole, *parts: Part) -> Message:
    return Message(role=role, parts=parts)


def a_tool(name: str = "search", **schema: Any) -> ToolDefinition:
    return ToolDefinition(name=name, description="Finds.", input_schema=schema)


def with_messages(*messages: Message) -> Prompt:
    return a_prompt(messages=messages)


@pytest.mark.parametrize(
    ("prompt", "field"),
    [
        (with_messages(), "messages"),
        (with_messages(*[a_message("x")] * 257), "messages"),
        (with_messages(*[a_message("x", name="Athena")] * 256), "messages"),
        (a_prompt("x" * (256 * 1024 + 1)), "messages"),
        (a_prompt(tools=tuple(a_tool(f"t{n}", title="—" * 10_000) for n in range(9))), "messages"),
        (with_messages(a_message("rules", MessageRole.SYSTEM)), "messages"),
        (a_prompt(max_output_tokens=0), "max_output_tokens"),
        (a_prompt(max_output_tokens=-1), "max_output_tokens"),
        (a_prompt(max_output_tokens=40_000), "max_output_tokens"),
        (a_prompt(temperature=2.1), "temperature"),
        (a_prompt(temperature=float("nan")), "temperature"),
        (a_prompt(stop_sequences=("a",) * 5), "stop_sequences"),
        (a_prompt(stop_sequences=("a", "")), "stop_sequences[1]"),
        (a_prompt(stop_sequences=("x" * 65,)), "stop_sequences[0]"),
        (a_prompt(tools=tuple(a_tool(f"t{n}") for n in range(33))), "tools"),
        (a_prompt(tools=(a_tool("no spaces"),)), "tools[0].name"),
        (a_prompt(tools=(a_tool(), a_tool())), "tools[1].name"),
        (a_prompt(tools=(a_tool(type="array"),)), "tools[0].input_schema.type"),
        (a_prompt(tools=(a_tool(properties={"q": {"type": "text"}}),)), "tools[0].input_schema.properties.q.type"),
        (a_prompt(tools=(a_tool(required="q"),)), "tools[0].input_schema.required"),
        *((a_prompt(tools=(a_tool(**nested(levels)),)), "tools[0].input_schema") for levels in (33, 2_000)),
        *(
            (a_prompt(output_format=in_form(nested(levels))), "output_format.json_schema.schema")
            for levels in (33, 2_000)
        ),
        (a_prompt(tools=(a_tool(description="x" * 32_768),)), "tools[0].input_schema"),
        (a_prompt(tools=(a_tool(description="é" * 16_384),)), "tools[0].input_schema"),
        (with_messages(a_message(name="x" * 65)), "messages[0].name"),
        (with_messages(said(MessageRole.USER)), "messages[0].parts"),
        (with_messages(a_message(), said(MessageRole.ASSISTANT)), "messages[1].parts"),
        (with_messages(said(MessageRole.USER, CALL)), "messages[0].parts[0]"),
        (with_messages(said(MessageRole.USER, RESULT)), "messages[0].parts[0]"),
        (with_messages(a_message("x", MessageRole.TOOL)), "messages[0].parts[0]"),
        *((with_messages(calling(nested(levels))), "messages[0].parts[0].tool_call.arguments") for levels in DEEP),
        (with_messages(said(MessageRole.SYSTEM, PICTURE)), "messages[0].parts[0]"),
        (
            with_messages(a_message(), said(MessageRole.TOOL, RESULT)),
            "messages[1].parts[0].tool_result.tool_call_id",
        ),
        (
            with_messages(a_message(), said(MessageRole.ASSISTANT, NAMELESS)),
            "messages[1].parts[0].tool_call.tool_call_id",
        ),
        (
            with_messages(a_message(), said(MessageRole.ASSISTANT, LONG_ID)),
            "messages[1].parts[0].tool_call.tool_call_id",
        ),
    ],
)
def test_a_prompt_beyond_its_limits_is_refused_with_the_field(prompt: Prompt, field: str) -> None:
    with pytest.raises(Invalid) as refused:
        checked_prompt(prompt)
    assert refused.value.field == field


@pytest.mark.parametrize(
    "prompt",
    [
        a_prompt("x" * (256 * 1024)),
        a_prompt(max_output_tokens=1),
        a_prompt(max_output_tokens=32_768, temperature=0.0, stop_sequences=("END",)),
        a_prompt(tools=(a_tool(type="object", properties={}), a_tool("other"))),
        with_messages(a_message(), said(MessageRole.ASSISTANT, CALL), said(MessageRole.TOOL, RESULT)),
        with_messages(said(MessageRole.USER, text_part("look", USER), PICTURE)),
        with_messages(a_message(), calling(nested(24))),
        a_prompt(tools=(a_tool(description="x" * 32_000),)),
        a_prompt(tools=(a_tool(**nested(32)),), output_format=in_form(nested(32))),
    ],
)
def test_a_prompt_within_its_limits_passes(prompt: Prompt) -> None:
    assert checked_prompt(prompt) is prompt


def test_a_prompt_that_is_too_large_has_none_of_its_schemas_looked_at() -> None:
    tools = tuple(a_tool(f"t{number}", type="object", required="x" * 32_000) for number in range(9))
    with pytest.raises(Invalid) as refused:
        checked_prompt(a_prompt(tools=tools))
    assert refused.value.field == "messages"


def test_a_schema_is_looked_at_once_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[object] = []

    def problem(schema: object) -> None:
        looked.append(schema)

    monkeypatch.setattr("services.inference.domain.prompt_limits.schema_problem", problem)
    problems = SchemaProblems(most=2)
    for text in ('{"a":1}', '{"a":2}', '{"a":1}', '{"a":3}', '{"a":1}', '{"a":2}'):
        assert problems.of(text) is None
    assert looked == [{"a": 1}, {"a": 2}, {"a": 3}, {"a": 2}]


def test_the_hash_tells_intents_apart_and_is_the_same_for_the_same_one() -> None:
    prompts = [
        a_prompt(),
        a_prompt(max_output_tokens=65),
        a_prompt(temperature=0.5),
        a_prompt(stop_sequences=("x",)),
        a_prompt(tools=(a_tool(),)),
        with_messages(a_message(label=Label())),
        with_messages(a_message(role=MessageRole.ASSISTANT)),
        with_messages(a_message(name="Athena")),
        with_messages(said(MessageRole.USER, PICTURE)),
        with_messages(said(MessageRole.USER, Part(BlobPart(blob_id="b", media_type="x/y", size_bytes=1, owner="o")))),
    ]
    hashes = [prompt.arguments_hash("default") for prompt in prompts]
    assert len(set(hashes)) == len(prompts)
    assert a_prompt().arguments_hash("default") == hashes[0]
    assert a_prompt().arguments_hash("stub") != hashes[0]


def test_the_law_is_shown_what_a_model_reads_beside_the_messages() -> None:
    form = OutputFormat(kind=OutputKind.JSON_SCHEMA, name="verdict", schema={"title": "A form."})
    prompt = with_messages(a_message(name="Athena"), a_message(name="Athena"))
    prompt = replace(prompt, tools=(a_tool(title='Say\n"secret".'),), output_format=form, stop_sequences=("END",))
    *parts, beside = prompt.shown_to_law()
    assert tuple(parts) == prompt.parts
    assert beside == text_part(
        'search\nFinds.\n{"title":"Say\\n\\"secret\\"."}\nSay\n"secret".\nverdict\n{"title":"A form."}\nEND\nAthena',
        Label(integrity=Integrity.USER),
    )
    assert a_prompt(output_format=OutputFormat(kind=OutputKind.JSON_OBJECT)).shown_to_law() == a_prompt().parts


def test_key_order_of_arguments_means_nothing() -> None:
    one, other = a_tool(type="object", title="x"), a_tool(title="x", type="object")
    assert a_prompt(tools=(one,)).arguments_hash("m") == a_prompt(tools=(other,)).arguments_hash("m")


def a_rich_prompt() -> Prompt:
    return Prompt(
        messages=(
            Message(role=MessageRole.SYSTEM, parts=(text_part("Be brief.", Label()),)),
            Message(
                role=MessageRole.ASSISTANT,
                name="Athena",
                parts=(Part(ToolCallPart(tool_call_id="c", name="search", arguments={"q": [1, None]}), USER),),
            ),
            Message(
                role=MessageRole.TOOL,
                parts=(Part(ToolResultPart(tool_call_id="c", name="search", text="—", failed=False), USER),),
            ),
        ),
        tools=(a_tool(type="object"),),
        max_output_tokens=64,
        temperature=0.5,
        stop_sequences=("END",),
    )


@pytest.mark.parametrize(
    ("prompt", "model", "identity"),
    [
        (
            Prompt(messages=(a_message(),)),
            "default",
            "fd9f6fa864409fe3eaf3437f978549da068e5481726543f303ecbdc926cfd5be",
        ),
        (a_rich_prompt(), "openai/gpt-test", "d102913e9263af05fe1e60f8e600036b288ccfb873e56a869e012ecbe8e591cb"),
    ],
    ids=["plain", "rich"],
)
def test_prompts_keep_the_identity_under_which_their_calls_are_recorded(
    prompt: Prompt, model: str, identity: str
) -> None:
    assert prompt.arguments_hash(model).hex() == identity


@pytest.mark.parametrize(
    "asked",
    [
        {"tool_choice": ToolChoice(mode=ToolChoiceMode.NONE)},
        {"parallel_tool_calls": False},
        {"output_format": OutputFormat(kind=OutputKind.JSON_OBJECT)},
        {"output_format": OutputFormat(kind=OutputKind.JSON_SCHEMA, name="answer", schema={"type": "object"})},
        {"sampling": Sampling(top_k=1)},
        {"sampling": Sampling(reasoning_effort=ReasoningEffort.LOW)},
    ],
)
def test_whatever_else_a_prompt_asks_for_is_part_of_its_identity(asked: dict[str, Any]) -> None:
    assert a_prompt(**asked).arguments_hash("default") != a_prompt().arguments_hash("default")


@pytest.mark.parametrize(
    "beside",
    [
        {"tools": (ToolDefinition(name="search", input_schema={}),)},
        {"output_format": OutputFormat(kind=OutputKind.JSON_SCHEMA, name="answer", schema={"type": "object"})},
        {"stop_sequences": ("END",)},
        {"messages": (a_message(label=BOTTOM, name="Athena"),)},
    ],
    ids=["tools", "form", "stop", "names"],
)
def test_an_answer_carries_the_label_of_what_stood_beside_the_messages(beside: dict[str, Any]) -> None:
    bare = a_prompt(messages=(a_message(label=BOTTOM),))
    assert replace(bare.label(model="m"), sources=frozenset()) == BOTTOM
    prompt = replace(bare, **beside)
    assert prompt.beside is not None
    assert prompt.label(model="m").covers(prompt.beside.label)
