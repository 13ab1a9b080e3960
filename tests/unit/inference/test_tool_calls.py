"""Tool calls as providers write them: what is no call is what a provider got wrong."""

import json

import msgspec
import pytest

from services.inference.providers.openai.chat_wire import tool_call
from services.meshkit.content.proto import struct_from_dict


def nested(levels: int) -> str:
    return '{"a":' * (levels - 1) + "{}" + "}" * (levels - 1)


def test_arguments_that_fit_on_the_wire_are_taken() -> None:
    call = tool_call("c1", "search", nested(24))
    assert call.arguments == json.loads(nested(24))
    assert struct_from_dict(dict(call.arguments)).ByteSize()


@pytest.mark.parametrize("levels", [25, 34, 500, 5_000])
def test_arguments_that_are_nested_deeper_are_garbage(levels: int) -> None:
    with pytest.raises(msgspec.MsgspecError, match="deep"):
        tool_call("c1", "search", nested(levels))
