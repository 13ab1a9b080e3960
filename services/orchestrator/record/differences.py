"""Shows field by field how two messages differ; what calls ask and answer is decoded for it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice, takewhile
from typing import Any, Final, cast

from google.protobuf import duration_pb2, json_format, struct_pb2, timestamp_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from comitia.inference.v1 import generation_pb2, inference_service_pb2
from comitia.memory.v1 import memory_service_pb2
from comitia.orchestrator.v1 import journal_pb2, record_pb2
from comitia.tools.v1 import tool_service_pb2
from services.orchestrator.programs.commands import MODEL_CALLS

#: A text is shown up to this many characters, a part of them before the first difference.
_SHOWN: Final = 200
_BEFORE: Final = 60
#: Values of one message that are compared, so that no message takes for ever.
_MOST_VALUES: Final = 100_000

_ASKED: Final[Mapping[int, type[Message]]] = {
    journal_pb2.CALL_KIND_RECALL: memory_service_pb2.RecallRequest,
    **dict.fromkeys(MODEL_CALLS, inference_service_pb2.StreamGenerateRequest),
    journal_pb2.CALL_KIND_TOOL: tool_service_pb2.InvokeToolRequest,
    journal_pb2.CALL_KIND_REMEMBER: memory_service_pb2.RememberRequest,
    journal_pb2.CALL_KIND_EMBED: inference_service_pb2.EmbedRequest,
    journal_pb2.CALL_KIND_DESCRIBE_TOOLS: tool_service_pb2.ListToolsRequest,
    journal_pb2.CALL_KIND_STEP: journal_pb2.StepTask,
    journal_pb2.CALL_KIND_RUN: journal_pb2.SubRunTask,
}
_ANSWERED: Final[Mapping[int, type[Message]]] = {
    journal_pb2.CALL_KIND_RECALL: memory_service_pb2.RecallResponse,
    **dict.fromkeys(MODEL_CALLS, generation_pb2.Generation),
    journal_pb2.CALL_KIND_TOOL: tool_service_pb2.Invocation,
    journal_pb2.CALL_KIND_REMEMBER: memory_service_pb2.RememberResponse,
    journal_pb2.CALL_KIND_EMBED: inference_service_pb2.EmbedResponse,
    journal_pb2.CALL_KIND_DESCRIBE_TOOLS: tool_service_pb2.ListToolsResponse,
    journal_pb2.CALL_KIND_STEP: journal_pb2.StepResult,
    journal_pb2.CALL_KIND_RUN: journal_pb2.StepResult,
}


def differences(before: Message, after: Message, *, most: int) -> list[record_pb2.FieldDifference]:
    """Gives the first values that differ, each under its way through the message."""
    left, right = (dict(islice(_values(message, ""), _MOST_VALUES)) for message in (before, after))
    differing = (name for name in dict.fromkeys(chain(left, right)) if left.get(name) != right.get(name))
    return [difference(name, left.get(name, ""), right.get(name, "")) for name in islice(differing, most)]


def difference(name: str, before: str, after: str) -> record_pb2.FieldDifference:
    """Shows two texts, cut around their first difference."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))
    return record_pb2.FieldDifference(field=name, before=_cut(before, same), after=_cut(after, same))


def decoded_request(call: journal_pb2.CallIntended) -> Message | None:
    """Gives what a call asks, None when it cannot be read."""
    return _decoded(_ASKED.get(call.kind), call.request)


def decoded_response(call: journal_pb2.CallAnswered) -> Message | None:
    """Gives what a call was answered, None when it cannot be read."""
    return _decoded(_ANSWERED.get(call.kind), call.response)


def as_json(message: struct_pb2.Value | struct_pb2.Struct) -> str:
    """Writes an open value as JSON."""
    try:
        found: Any = json_format.MessageToDict(message)
    except (ValueError, json_format.SerializeToJsonError):
        # Not a number, endless, or never set.
        return str(message)
    return json.dumps(found, ensure_ascii=False, sort_keys=True)


def _decoded(kind: type[Message] | None, content: bytes) -> Message | None:
    try:
        return None if kind is None else kind.FromString(content)
    except DecodeError:
        return None


def _values(message: Message, way: str) -> Iterator[tuple[str, str]]:
    """Gives every value of a message as a text under its way."""
    inner: Message | None = None
    if isinstance(message, journal_pb2.CallIntended):
        inner = decoded_request(message)
    elif isinstance(message, journal_pb2.CallAnswered):
        inner = decoded_response(message)
    for field, value in message.ListFields():
        name = f"{way}.{field.name}" if way else field.name
        if inner is not None and field.name in ("request", "response"):
            yield from _values(inner, name)
        elif inner is not None and field.name == "request_digest":
            continue  # the request says it better
        elif (of_value := _value_of_map(field)) is not None:
            for key in sorted(value):
                yield from _value(of_value, value[key], f"{name}[{key}]")
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            for index, part in enumerate(cast(Sequence[Any], value)):
                yield from _value(field, part, f"{name}[{index}]")
        else:
            yield from _value(field, value, name)


def _value(field: FieldDescriptor, value: Any, name: str) -> Iterator[tuple[str, str]]:
    match value:
        case struct_pb2.Value() | struct_pb2.Struct():
            yield name, as_json(value)
        case timestamp_pb2.Timestamp() | duration_pb2.Duration():
            yield name, f"{value.seconds}.{value.nanos:09d} s"
        case Message():
            yield name, "{}"  # an empty message is a value, too
            yield from _values(value, name)
        case bytes():
            yield name, value.hex()
        case bool():
            yield name, str(value).lower()
        case int() if field.enum_type is not None and value in field.enum_type.values_by_number:
            yield name, field.enum_type.values_by_number[value].name
        case _:
            yield name, str(value)


def _value_of_map(field: FieldDescriptor) -> FieldDescriptor | None:
    """Gives what the values of a map are; None for a field that is no map."""
    kind = field.message_type
    return None if kind is None or not kind.GetOptions().map_entry else kind.fields_by_name["value"]


def _cut(text: str, same: int) -> str:
    start = max(0, same - _BEFORE) if len(text) > _SHOWN else 0
    cut = text[start : start + _SHOWN]
    return f"{'…' if start else ''}{cut}{'…' if start + _SHOWN < len(text) else ''}"
