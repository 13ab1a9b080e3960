"""Between the messages of the contract and documents, field by field as the contract names them."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# Messages are walked by their descriptors, which say nothing of their types.

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import NULL_VALUE, Struct, Value

from comitia.orchestrator.v1 import workflow_pb2
from services.orchestrator.domain.workflow import Workflow
from services.orchestrator.workflows.document import Document, document_of

#: Written by us; ignored when they come in.
OUTPUT_ONLY: Final = ("digest", "create_time", "node_count", "depth")
_NANOS: Final = 1_000_000_000


def message_of(workflow: Workflow) -> workflow_pb2.Workflow:
    """Writes a workflow as a message."""
    message = workflow_pb2.Workflow()
    _fill(message, document_of(workflow))
    return message


def document_from(message: workflow_pb2.Workflow) -> Document:
    """Reads a message, whatever a caller has put into it, as a document to be checked."""
    document = _fields(message)
    for name in OUTPUT_ONLY:
        document.pop(name, None)
    return document


def _fields(message: Message) -> Document:
    return {field.name: _field(field, value) for field, value in message.ListFields()}


def _field(field: Any, value: Any) -> object:
    if _is_map(field):
        of = field.message_type.fields_by_name["value"]
        return {key: _single(of, value[key]) for key in value}
    if field.is_repeated:
        return [_single(field, item) for item in value]
    return _single(field, value)


def _single(field: Any, value: Any) -> object:
    match value:
        case Duration():
            nanos = value.seconds * _NANOS + value.nanos
            sign, nanos = ("-" if nanos < 0 else ""), abs(nanos)
            return f"{sign}{nanos // _NANOS}.{nanos % _NANOS:09d}".rstrip("0").rstrip(".") + "s"
        case Struct():
            return _json_object(value)
        case Value():
            return _json(value)
        case Message():
            return _fields(value)
        case _ if field.enum_type is not None:
            known = field.enum_type.values_by_number.get(value)
            return value if known is None else _short(field.enum_type, known.name)
        case _:
            return value


def _json(value: Value) -> object:
    match value.WhichOneof("kind"):
        case "struct_value":
            return _json_object(value.struct_value)
        case "list_value":
            return [_json(item) for item in value.list_value.values]
        case "number_value":
            number = value.number_value
            # JSON knows one kind of number; whole ones are written as such.
            return int(number) if number.is_integer() and abs(number) < 1 << 53 else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case _:
            return None


def _json_object(struct: Struct) -> dict[str, object]:
    return {key: _json(struct.fields[key]) for key in sorted(struct.fields)}


def _fill(message: Message, document: Mapping[str, Any]) -> None:
    for name, value in document.items():
        field = message.DESCRIPTOR.fields_by_name[name]
        target: Any = getattr(message, name)
        if _is_map(field):
            for key, item in value.items():
                _fill(target[key], item)
        elif field.is_repeated:
            for item in value:
                _fill(target.add(), item)
        elif field.message_type is not None:
            _fill_one(target, value)
        elif field.enum_type is not None:
            setattr(message, name, _number(field.enum_type, value))
        else:
            setattr(message, name, value)


def _fill_one(target: Any, value: Any) -> None:
    # An empty message is there all the same.
    target.SetInParent()
    match target:
        case Duration():
            seconds, _, rest = value.removesuffix("s").partition(".")
            target.seconds, target.nanos = int(seconds), int(rest.ljust(9, "0"))
        case Struct():
            _fill_struct(target, value)
        case Value():
            _fill_json(target, value)
        case _:
            _fill(target, value)


def _fill_struct(target: Struct, value: Mapping[str, Any]) -> None:
    for key, item in value.items():
        _fill_json(target.fields[key], item)


def _fill_json(target: Value, value: Any) -> None:
    match value:
        case None:
            target.null_value = NULL_VALUE
        case bool():
            target.bool_value = value
        case int() | float():
            target.number_value = value
        case str():
            target.string_value = value
        case list():
            target.list_value.SetInParent()
            for item in value:
                _fill_json(target.list_value.values.add(), item)
        case _:
            target.struct_value.SetInParent()
            _fill_struct(target.struct_value, value)


def _is_map(field: Any) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _short(enum: Any, name: str) -> str:
    """Gives `gold` of `QUALITY_TIER_GOLD`."""
    return name.removeprefix(_prefix(enum)).lower()


def _number(enum: Any, word: str) -> int:
    return enum.values_by_name[_prefix(enum) + word.upper()].number


def _prefix(enum: Any) -> str:
    return enum.values[0].name.removesuffix("UNSPECIFIED")
