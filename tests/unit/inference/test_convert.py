"""Proto to domain: what is not taken yet is refused, never passed over."""

from typing import Any

import pytest

from comitia.inference.v1 import generation_pb2, inference_service_pb2
from services.inference.transport import convert
from services.meshkit.core.errors import Invalid


@pytest.mark.parametrize(
    "asked",
    [
        {"tool_choice": generation_pb2.ToolChoice(mode=generation_pb2.TOOL_CHOICE_MODE_NONE)},
        {"output_format": generation_pb2.OutputFormat(json_object=generation_pb2.JsonObject())},
        {"sampling": generation_pb2.Sampling(top_k=1)},
        {"policy": generation_pb2.CallPolicy(cache=generation_pb2.CACHE_USE_NO)},
        {"parallel_tool_calls": False},
    ],
    ids=lambda asked: next(iter(asked)),
)
@pytest.mark.parametrize(
    "request_class", [inference_service_pb2.GenerateRequest, inference_service_pb2.StreamGenerateRequest]
)
def test_what_no_adapter_sends_is_refused(request_class: type[convert.GenerateLike], asked: dict[str, Any]) -> None:
    with pytest.raises(Invalid, match="is not taken yet"):
        convert.prompt_of(request_class(**asked))
