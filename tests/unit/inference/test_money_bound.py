"""The bound is never below what a provider counts."""

import json
from typing import Any

import pytest
import quicktok
from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference.domain.deployment import Adapter, DeploymentVersion
from services.inference.domain.errors import CallNotBounded
from services.inference.domain.money_bound import bound_of, embedding_bound
from services.inference.domain.output_format import OutputFormat, OutputKind
from services.inference.domain.prompt import Prompt, ToolDefinition
from services.inference.providers.instruction import in_words
from services.meshkit.content import (
    BlobPart,
    DocumentPart,
    ImagePart,
    Message,
    MessageRole,
    Part,
    ToolCallPart,
    ToolResultPart,
    text_part,
)
from tests.support.examples import examples
from tests.support.inference import USER, a_message, a_prompt

VOCABULARIES = ("cl100k_base", "o200k_base", "llama3", "qwen3")


def behind(adapter: Adapter) -> DeploymentVersion:
    return DeploymentVersion(name=f"{adapter}/test", adapter=adapter, model="test")


PAID = (Adapter.OPENAI, Adapter.ANTHROPIC, Adapter.OPENAI_COMPATIBLE, Adapter.LOCAL)

#: Texts that tokenisers find hard: all of Unicode, emoji sequences, runs of one character, code, ligatures.
texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=120),
    st.text("\U0001f468‍\U0001f469️ﷺﬀ①\u0344\x00\x7f", max_size=100),
    st.builds(
        lambda character, count: character * count, st.characters(exclude_categories=["Cs"]), st.integers(0, 120)
    ),
    st.text(" \t\n{}[]()<>\"'\\/_=+-*", max_size=80),
)
values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=8,
)
objects = st.dictionaries(texts, values, max_size=4)


def count(text: str) -> int:
    """Tokens of a text in the vocabulary that needs most."""
    return max(len(quicktok.get_encoding(name).encode(text)) for name in VOCABULARIES)


def counted_as_openai(prompt: Prompt) -> int:
    """Counts a prompt as OpenAI's cookbook does: 3 tokens a message, 1 a name, 3 for the answer's start.

    Source: "How to count tokens with Tiktoken", OpenAI Cookbook.
    """
    tokens = 3
    for message in prompt.messages:
        tokens += 3 + count(message.role) + (count(message.name) + 1 if message.name else 0)
        for part in message.parts:
            match part.content:
                case ToolCallPart(tool_call_id=call, name=name, arguments=arguments):
                    tokens += count(call) + count(name) + count(json.dumps(arguments)) + 8
                case ToolResultPart(text=text):
                    tokens += count(text) + 3
                case content:
                    tokens += count(getattr(content, "text", ""))
    for tool in prompt.tools:
        tokens += 12 + count(f"{tool.name}:{tool.description}") + count(json.dumps(tool.input_schema))
    return tokens + (12 if prompt.tools else 0)


@settings(max_examples=examples(60), deadline=None)
@given(
    parts=st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), texts, texts), min_size=1, max_size=5)
)
def test_messages_never_count_more_than_their_bound(parts: list[tuple[str, str, str]]) -> None:
    messages = tuple(
        Message(role=MessageRole(role), parts=(text_part(text, USER),), name=name[:64]) for role, name, text in parts
    )
    prompt = a_prompt(messages=messages)
    assert counted_as_openai(prompt) <= min(bound_of(prompt, behind(adapter)).input for adapter in PAID)


@settings(max_examples=examples(60), deadline=None)
@given(schema=objects, description=texts, arguments=objects, result=texts)
def test_tools_never_count_more_than_their_bound(
    schema: dict[str, Any], description: str, arguments: dict[str, Any], result: str
) -> None:
    call = ToolCallPart(tool_call_id="call_0123456789abcdefghijklmn", name="search", arguments=arguments)
    answer = ToolResultPart(tool_call_id=call.tool_call_id, name="search", text=result)
    prompt = a_prompt(
        messages=(
            a_message(),
            Message(role=MessageRole.ASSISTANT, parts=(Part(call, USER),)),
            Message(role=MessageRole.TOOL, parts=(Part(answer, USER),)),
        ),
        tools=(ToolDefinition(name="search", description=description, input_schema=schema),),
    )
    assert counted_as_openai(prompt) <= min(bound_of(prompt, behind(adapter)).input for adapter in PAID)


@settings(max_examples=examples(60), deadline=None)
@given(schema=objects)
def test_a_form_told_in_words_never_counts_more_than_its_bound(schema: dict[str, Any]) -> None:
    prompt = a_prompt(output_format=OutputFormat(kind=OutputKind.JSON_SCHEMA, name="form", schema=schema))
    assert counted_as_openai(in_words(prompt, schema=True)) <= min(
        bound_of(prompt, behind(adapter)).input for adapter in PAID
    )


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(texts, min_size=1, max_size=4))
def test_embedded_texts_never_count_more_than_their_bound(some: list[str]) -> None:
    assert sum(count(text) for text in some) <= embedding_bound(tuple(some)).input


COOKBOOK = (
    (
        "system",
        "",
        "You are a helpful, pattern-following assistant that translates corporate jargon into plain English.",
    ),
    ("system", "example_user", "New synergies will help drive top-line growth."),
    ("system", "example_assistant", "Things working well together will increase revenue."),
    (
        "system",
        "example_user",
        "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage.",
    ),
    ("system", "example_assistant", "Let's talk later when we're less busy about how to do better."),
    (
        "user",
        "",
        "This late pivot means we don't have time to boil the ocean for the client deliverable.",
    ),
)
WEATHER = ToolDefinition(
    name="get_weather",
    description="Get the current weather in a given location",
    input_schema={
        "type": "object",
        "properties": {
            "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
            "unit": {
                "type": "string",
                "enum": ["celsius", "fahrenheit"],
                "description": "The unit of temperature, either 'celsius' or 'fahrenheit'",
            },
        },
        "required": ["location"],
    },
)


def cookbook() -> Prompt:
    return a_prompt(
        messages=tuple(
            Message(role=MessageRole(role), parts=(text_part(text, USER),), name=name) for role, name, text in COOKBOOK
        )
    )


PUBLISHED = [
    # OpenAI Cookbook, "How to count tokens with Tiktoken": gpt-4 counts 129, gpt-4o 124.
    pytest.param(cookbook(), Adapter.OPENAI, 129, id="openai-cookbook-messages"),
    # The same page: gpt-4 counts 105 for two messages and a weather tool.
    pytest.param(
        a_prompt(
            messages=(
                a_message(
                    "You are a helpful assistant that can answer to questions about the weather.", MessageRole.SYSTEM
                ),
                a_message("What's the weather like in San Francisco?"),
            ),
            tools=(WEATHER,),
        ),
        Adapter.OPENAI,
        105,
        id="openai-cookbook-tools",
    ),
    # Anthropic's guide to token counting: 14, and 403 with a weather tool.
    pytest.param(
        a_prompt(messages=(a_message("You are a scientist", MessageRole.SYSTEM), a_message("Hello, Claude"))),
        Adapter.ANTHROPIC,
        14,
        id="anthropic-basic",
    ),
    pytest.param(
        a_prompt("What's the weather like in San Francisco?", tools=(WEATHER,)),
        Adapter.ANTHROPIC,
        403,
        id="anthropic-tools",
    ),
    # The same guide: a picture of an ant and a question count 1551.
    pytest.param(
        a_prompt(
            messages=(
                Message(
                    role=MessageRole.USER,
                    parts=(
                        Part(ImagePart(media_type="image/jpeg", data=b"jpeg"), USER),
                        text_part("Describe this image", USER),
                    ),
                ),
            )
        ),
        Adapter.ANTHROPIC,
        1551,
        id="anthropic-picture",
    ),
    # OpenAI's guide to vision: a picture of 2048 x 4096 in high detail counts 1105, for gpt-4o-mini 36,835.
    pytest.param(
        a_prompt(
            messages=(
                Message(role=MessageRole.USER, parts=(Part(ImagePart(media_type="image/png", data=b"png"), USER),)),
            )
        ),
        Adapter.OPENAI,
        36_835,
        id="openai-picture",
    ),
]


@pytest.mark.parametrize(("prompt", "adapter", "published"), PUBLISHED)
def test_published_examples_stay_below_the_bound(prompt: Prompt, adapter: Adapter, published: int) -> None:
    assert published <= bound_of(prompt, behind(adapter)).input


def test_the_longest_answer_is_part_of_the_bound() -> None:
    assert bound_of(a_prompt(max_output_tokens=123), behind(Adapter.OPENAI)).output == 123


@pytest.mark.parametrize(
    ("part", "adapter", "field"),
    [
        (ImagePart(media_type="image/png", data=b"x"), Adapter.LOCAL, "messages[0].parts[0].image"),
        (
            DocumentPart(media_type="application/pdf", data=b"x"),
            Adapter.ANTHROPIC,
            "messages[0].parts[0].document.media_type",
        ),
        (
            BlobPart(blob_id="b", media_type="image/png", size_bytes=1, owner="tools"),
            Adapter.OPENAI,
            "messages[0].parts[0].blob",
        ),
    ],
)
def test_what_nobody_can_bound_is_refused(part: Any, adapter: Adapter, field: str) -> None:
    prompt = a_prompt(messages=(Message(role=MessageRole.USER, parts=(Part(part, USER),)),))
    with pytest.raises(CallNotBounded) as refused:
        bound_of(prompt, behind(adapter))
    assert refused.value.field == field


def test_a_plain_text_document_is_bounded_by_its_bytes() -> None:
    document = DocumentPart(media_type="text/plain", data=b"x" * 500, title="T")
    prompt = a_prompt(messages=(Message(role=MessageRole.USER, parts=(Part(document, USER),)),))
    assert bound_of(prompt, behind(Adapter.ANTHROPIC)).input >= 500
