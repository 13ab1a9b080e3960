"""What a prompt may be: each refusal names its field."""

from typing import Any

import pytest

from services.inference.domain.prompt import Prompt, ToolDefinition, checked_prompt
from services.meshkit.content import (
    BlobPart,
    ImagePart,
    Label,
    Message,
    MessageRole,
    Part,
    ToolCallPart,
    ToolResultPart,
    text_part,
)
from services.meshkit.core.errors import Invalid
from tests.support.inference import USER, a_message, a_prompt

CALL = Part(ToolCallPart(tool_call_id="c1", name="search", arguments={"q": "x"}), USER)
NAMELESS = Part(ToolCallPart(tool_call_id="", name="search", arguments={}), USER)
RESULT = Part(ToolResultPart(tool_call_id="c1", name="search", text="found"), USER)
PICTURE = Part(ImagePart(media_type="image/png", data=b"png"), USER)


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
        (a_prompt("x" * (256 * 1024 + 1)), "messages"),
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
        (with_messages(a_message(name="x" * 65)), "messages[0].name"),
        (with_messages(said(MessageRole.USER, CALL)), "messages[0].parts[0]"),
        (with_messages(said(MessageRole.USER, RESULT)), "messages[0].parts[0]"),
        (with_messages(a_message("x", MessageRole.TOOL)), "messages[0].parts[0]"),
        (with_messages(said(MessageRole.SYSTEM, PICTURE)), "messages[0].parts[0]"),
        (
            with_messages(a_message(), said(MessageRole.TOOL, RESULT)),
            "messages[1].parts[0].tool_result.tool_call_id",
        ),
        (
            with_messages(a_message(), said(MessageRole.ASSISTANT, NAMELESS)),
            "messages[1].parts[0].tool_call",
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
    ],
)
def test_a_prompt_within_its_limits_passes(prompt: Prompt) -> None:
    assert checked_prompt(prompt) is prompt


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


def test_key_order_of_arguments_means_nothing() -> None:
    one, other = a_tool(type="object", title="x"), a_tool(title="x", type="object")
    assert a_prompt(tools=(one,)).arguments_hash("m") == a_prompt(tools=(other,)).arguments_hash("m")
