import pytest
from google.protobuf.struct_pb2 import Value

from comitia.orchestrator.v1 import agent_pb2, agent_service_pb2
from services.meshkit.core.errors import ErrorKind
from services.meshkit.grpc.decoding import MAX_MESSAGE_BYTES, MalformedRequest, RequestTooLarge, decoder

read = decoder(agent_service_pb2.CreateAgentRequest.FromString)
OWL = "\N{OWL}"


def a_request(agent: agent_pb2.Agent) -> bytes:
    """Gives the bytes of a request in which every owl is replaced by four bytes that are no UTF-8."""
    return agent_service_pb2.CreateAgentRequest(agent=agent).SerializeToString().replace(OWL.encode(), b"\xff" * 4)


def test_a_message_is_read() -> None:
    assert read(a_request(agent_pb2.Agent(name="Athena"))).agent.name == "Athena"


@pytest.mark.parametrize(
    ("agent", "field"),
    [
        (agent_pb2.Agent(name=OWL), "agent.name"),
        (agent_pb2.Agent(name="Athéna", model=OWL), "agent.model"),
        (agent_pb2.Agent(tools=["a", "b", OWL]), "agent.tools[2]"),
        (agent_pb2.Agent(style={"a": 1, OWL: 2}), "agent.style"),
    ],
)
def test_a_text_that_is_not_utf8_is_named(agent: agent_pb2.Agent, field: str) -> None:
    with pytest.raises(MalformedRequest, match="is not UTF-8") as refused:
        read(a_request(agent))
    assert refused.value.field == field


@pytest.mark.parametrize("raw", [b"\x0a\x7f", b"\x0a\x02\x0a\x7f", b"\x08\x01\x10", b"\xff"])
def test_bytes_that_are_no_message_are_refused(raw: bytes) -> None:
    with pytest.raises(MalformedRequest, match="no such message") as refused:
        read(raw)
    assert refused.value.field == "request"


def test_a_message_nested_without_end_is_refused() -> None:
    raw = b"\x1a\x02\xff\xff"
    for _ in range(2000):
        inner = b"\x0a" + varint(len(raw)) + raw  # ListValue.values
        raw = b"\x32" + varint(len(inner)) + inner  # Value.list_value
    with pytest.raises(MalformedRequest):
        decoder(Value.FromString)(raw)


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes((number & 127 | 128,)), number >> 7
    return out + bytes((number,))


def test_a_message_beyond_the_limit_is_refused_with_the_limit() -> None:
    with pytest.raises(RequestTooLarge) as refused:
        read(b"\0" * (MAX_MESSAGE_BYTES + 1))
    assert refused.value.kind is ErrorKind.INVALID
    assert refused.value.metadata == {"limit_bytes": str(MAX_MESSAGE_BYTES)}
