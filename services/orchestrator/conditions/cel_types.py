"""Tells shapes to the type checker of CEL, as the message types of a descriptor pool of their own."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# `cel-expr-python` has stubs of its own for what is used here only in part.

from collections.abc import Mapping
from typing import Any, Final

from cel_expr_python import cel
from google.protobuf import struct_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from services.orchestrator.conditions.shapes import ListOf, MapOf, Record, Scalar, Shape

_PACKAGE: Final = "comitia_workflow"
#: Name of the type of `nodes`.
NODES: Final = f"{_PACKAGE}.V_nodes"
_VALUE, _LIST, _STRUCT = (f".google.protobuf.{name}" for name in ("Value", "ListValue", "Struct"))
_FIELDS: Final = {
    Scalar.TEXT: FieldDescriptorProto.TYPE_STRING,
    Scalar.WHOLE: FieldDescriptorProto.TYPE_INT64,
    Scalar.NUMBER: FieldDescriptorProto.TYPE_DOUBLE,
    Scalar.TRUTH: FieldDescriptorProto.TYPE_BOOL,
}
_SCALARS: Final[Mapping[Scalar, Any]] = {
    Scalar.ANY: cel.Type.DYN,
    Scalar.TEXT: cel.Type.STRING,
    Scalar.WHOLE: cel.Type.INT,
    Scalar.NUMBER: cel.Type.DOUBLE,
    Scalar.TRUTH: cel.Type.BOOL,
}


def environment(variables: Mapping[str, Shape]) -> tuple[Any, Mapping[str, Record]]:
    """Makes an environment in which CEL knows these variables; gives it with the records by the names of types."""
    writer = _Writer()
    types = {name: writer.type_of(shape, name) for name, shape in variables.items()}
    return cel.NewEnv(descriptor_pool=writer.pool(), variables=types), writer.records


class _Writer:
    """Writes records as message types, each once."""

    def __init__(self) -> None:
        self._file = FileDescriptorProto(
            name=f"{_PACKAGE}.proto",
            package=_PACKAGE,
            # Its fields have names that differ in case or underscores only, which proto3 does not take.
            syntax="proto2",
            dependency=[struct_pb2.DESCRIPTOR.name],
        )

        self.records: dict[str, Record] = {}

    def pool(self) -> DescriptorPool:
        pool = DescriptorPool()
        struct = FileDescriptorProto()
        struct_pb2.DESCRIPTOR.CopyToProto(struct)
        pool.Add(struct)
        pool.Add(self._file)
        return pool

    def type_of(self, shape: Shape, variable: str) -> Any:
        match shape:
            case Scalar():
                return _SCALARS[shape]
            case ListOf(item):
                return cel.Type.List(self.type_of(item, variable))
            case MapOf(value):
                return cel.Type.Map(cel.Type.STRING, self.type_of(value, variable))
            case Record():
                return cel.Type(self._record(shape, f"V_{variable}").removeprefix("."))

    def _record(self, record: Record, name: str = "") -> str:
        name = name or f"R{len(self._file.message_type)}"
        self.records[f"{_PACKAGE}.{name}"] = record
        message = self._file.message_type.add(name=name)
        message.options.deprecated_legacy_json_field_conflicts = True
        for number, (field, shape) in enumerate(record.fields.items(), start=1):
            # Numbers from 19,000 to 19,999 are protobuf's own.
            self._field(message, field, number if number < 19_000 else number + 1_000, shape)
        return f".{_PACKAGE}.{name}"

    def _field(self, message: DescriptorProto, name: str, number: int, shape: Shape) -> None:
        repeated = isinstance(shape, ListOf)
        kind, type_name = self._single(message, name, shape.item if isinstance(shape, ListOf) else shape, repeated)
        message.field.add(
            name=name,
            number=number,
            type=kind,
            type_name=type_name or None,
            label=FieldDescriptorProto.LABEL_REPEATED
            if repeated or type_name.startswith(f".{_PACKAGE}.{message.name}.")
            else FieldDescriptorProto.LABEL_OPTIONAL,
        )

    def _single(
        self, message: DescriptorProto, field: str, shape: Shape, repeated: bool
    ) -> tuple["FieldDescriptorProto.Type.ValueType", str]:
        """Gives the type of a field, or of the items of a repeated one."""
        match shape:
            case Scalar() if shape in _FIELDS:
                return _FIELDS[shape], ""
            case Record():
                return FieldDescriptorProto.TYPE_MESSAGE, self._record(shape)
            case MapOf(value) if value is not Scalar.ANY and not repeated:
                return FieldDescriptorProto.TYPE_MESSAGE, self._entry(message, field, value)
            case MapOf():
                return FieldDescriptorProto.TYPE_MESSAGE, _STRUCT
            case ListOf():
                return FieldDescriptorProto.TYPE_MESSAGE, _LIST
            case _:
                return FieldDescriptorProto.TYPE_MESSAGE, _VALUE

    def _entry(self, message: DescriptorProto, field: str, value: Shape) -> str:
        # A map field needs an entry whose name protobuf derives from the field's.
        name = "".join(part[:1].upper() + part[1:] for part in field.split("_")) + "Entry"
        if any(entry.name == name for entry in message.nested_type):
            return _STRUCT
        kind, type_name = self._single(message, field, value, repeated=True)
        entry = message.nested_type.add(name=name)
        entry.options.map_entry = True
        optional = FieldDescriptorProto.LABEL_OPTIONAL
        entry.field.add(name="key", number=1, type=FieldDescriptorProto.TYPE_STRING, label=optional)
        entry.field.add(name="value", number=2, type=kind, type_name=type_name or None, label=optional)
        return f".{_PACKAGE}.{message.name}.{name}"
