"""Proto to domain: everything that is asked for reaches the prompt."""

from typing import Any

import pytest

from comitia.common.v1 import content_pb2
from comitia.inference.v1 import generation_pb2, inference_service_pb2
from services.inference.domain.output_format import OutputFormat, OutputKind
from services.inference.domain.prompt import ReasoningEffort, Sampling, ToolChoice, ToolChoiceMode
from services.inference.transport import convert
from services.meshkit.content.proto import struct_from_dict
from services.meshkit.core.errors import Invalid

REQUESTS = [inference_service_pb2.GenerateRequest, inference_service_pb2.StreamGenerateRequest]
HELLO = content_pb2.Message(
    role=content_pb2.MESSAGE_ROLE_USER, parts=[content_pb2.Part(text=content_pb2.TextPart(text="Hello"))]
)
SEARCH = generation_pb2.ToolDefinition(name="search")


def a_request(request_class: type[convert.GenerateLike], **asked: Any) -> convert.GenerateLike:
    return request_class(messages=[HELLO], tools=[SEARCH], **asked)


@pytest.mark.parametrize("request_class", REQUESTS)
def test_all_that_is_asked_beside_the_messages_reaches_the_prompt(request_class: type[convert.GenerateLike]) -> None:
    schema: dict[str, object] = {"type": "object", "properties": {"n": {"type": "integer"}}}
    prompt = convert.prompt_of(
        a_request(
            request_class,
            tool_choice=generation_pb2.ToolChoice(mode=generation_pb2.TOOL_CHOICE_MODE_TOOL, name="search"),
            parallel_tool_calls=False,
            output_format=generation_pb2.OutputFormat(
                json_schema=generation_pb2.JsonSchema(name="number", schema=struct_from_dict(schema), strict=True)
            ),
            sampling=generation_pb2.Sampling(
                top_p=0.5,
                seed=0,
                top_k=4,
                frequency_penalty=0.0,
                presence_penalty=-1.0,
                reasoning_effort=generation_pb2.REASONING_EFFORT_LOW,
            ),
        )
    )
    assert prompt.tool_choice == ToolChoice(mode=ToolChoiceMode.TOOL, name="search")
    assert prompt.parallel_tool_calls is False
    assert prompt.output_format == OutputFormat(kind=OutputKind.JSON_SCHEMA, name="number", schema=schema, strict=True)
    assert prompt.sampling == Sampling(
        top_p=0.5,
        seed=0,
        top_k=4,
        frequency_penalty=0.0,
        presence_penalty=-1.0,
        reasoning_effort=ReasoningEffort.LOW,
    )


def test_what_is_absent_is_left_to_the_provider() -> None:
    prompt = convert.prompt_of(a_request(inference_service_pb2.GenerateRequest))
    assert (prompt.tool_choice, prompt.parallel_tool_calls) == (ToolChoice(), None)
    assert (prompt.output_format, prompt.sampling) == (OutputFormat(), Sampling())


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"tool_choice": {"mode": 99}}, "tool_choice.mode"),
        ({"tool_choice": {"mode": generation_pb2.TOOL_CHOICE_MODE_TOOL, "name": "find"}}, "tool_choice.name"),
        ({"tool_choice": {"name": "search"}}, "tool_choice.name"),
        ({"sampling": {"reasoning_effort": 99}}, "sampling.reasoning_effort"),
        ({"sampling": {"top_p": 0.0}}, "sampling.top_p"),
        ({"sampling": {"top_p": float("nan")}}, "sampling.top_p"),
        ({"sampling": {"top_k": 0}}, "sampling.top_k"),
        ({"sampling": {"presence_penalty": 2.1}}, "sampling.presence_penalty"),
        ({"output_format": {"json_schema": {"name": "no spaces"}}}, "output_format.json_schema.name"),
        (
            {"output_format": {"json_schema": {"name": "n", "schema": {"type": "nonsense"}}}},
            "output_format.json_schema.schema.type",
        ),
        (
            {"output_format": {"json_schema": {"name": "n", "schema": {"$ref": "https://example.org/s"}}}},
            "output_format.json_schema.schema.$ref",
        ),
        (
            {"output_format": {"json_schema": {"name": "n", "schema": {"pattern": "(a)\\1"}}}},
            "output_format.json_schema.schema.pattern",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_field(asked: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as refused:
        convert.prompt_of(a_request(inference_service_pb2.GenerateRequest, **asked))
    assert refused.value.field == field


def test_a_choice_of_tools_without_tools_is_refused() -> None:
    choice = generation_pb2.ToolChoice(mode=generation_pb2.TOOL_CHOICE_MODE_REQUIRED)
    with pytest.raises(Invalid) as refused:
        convert.prompt_of(inference_service_pb2.GenerateRequest(messages=[HELLO], tool_choice=choice))
    assert refused.value.field == "tool_choice"
