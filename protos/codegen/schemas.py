"""JSON schemas of messages and enums, by the JSON mapping of protobuf."""

from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FieldDescriptorProto

from protos.codegen.contract import ENUM_VALUE, FIELD, Contract, Location, Message
from protos.codegen.errors import CodegenError

#: A JSON object of OpenAPI; it is open by nature.
JsonObject = dict[str, Any]

SCALARS: dict[int, JsonObject] = {
    FieldDescriptorProto.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptorProto.TYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptorProto.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptorProto.TYPE_SINT32: {"type": "integer", "format": "int32"},
    FieldDescriptorProto.TYPE_SFIXED32: {"type": "integer", "format": "int32"},
    FieldDescriptorProto.TYPE_UINT32: {"type": "integer", "format": "int64", "minimum": 0},
    FieldDescriptorProto.TYPE_FIXED32: {"type": "integer", "format": "int64", "minimum": 0},
    FieldDescriptorProto.TYPE_INT64: {"type": "string", "format": "int64"},
    FieldDescriptorProto.TYPE_SINT64: {"type": "string", "format": "int64"},
    FieldDescriptorProto.TYPE_SFIXED64: {"type": "string", "format": "int64"},
    FieldDescriptorProto.TYPE_UINT64: {"type": "string", "format": "uint64"},
    FieldDescriptorProto.TYPE_FIXED64: {"type": "string", "format": "uint64"},
    FieldDescriptorProto.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptorProto.TYPE_STRING: {"type": "string"},
    FieldDescriptorProto.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
}

#: Types with a JSON form of their own.
WELL_KNOWN: dict[str, JsonObject] = {
    ".google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    ".google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"},
    ".google.protobuf.FieldMask": {"type": "string", "description": "Field paths, separated by commas."},
    ".google.protobuf.Struct": {"type": "object", "additionalProperties": True},
    ".google.protobuf.ListValue": {"type": "array", "items": {}},
    ".google.protobuf.Value": {},
    ".google.protobuf.Empty": {"type": "object"},
    ".google.protobuf.Any": {
        "type": "object",
        "properties": {"@type": {"type": "string", "description": "Type URL of the message."}},
        "required": ["@type"],
        "additionalProperties": True,
    },
    ".google.protobuf.DoubleValue": {"type": ["number", "null"], "format": "double"},
    ".google.protobuf.FloatValue": {"type": ["number", "null"], "format": "float"},
    ".google.protobuf.Int32Value": {"type": ["integer", "null"], "format": "int32"},
    ".google.protobuf.UInt32Value": {"type": ["integer", "null"], "format": "int64", "minimum": 0},
    ".google.protobuf.Int64Value": {"type": ["string", "null"], "format": "int64"},
    ".google.protobuf.UInt64Value": {"type": ["string", "null"], "format": "uint64"},
    ".google.protobuf.BoolValue": {"type": ["boolean", "null"]},
    ".google.protobuf.StringValue": {"type": ["string", "null"]},
    ".google.protobuf.BytesValue": {"type": ["string", "null"], "contentEncoding": "base64"},
}


class Schemas:
    """Makes schemas, and keeps those of named types as components."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._components: dict[str, JsonObject] = {}

    def components(self) -> dict[str, JsonObject]:
        """Schemas of all types referred to so far, by name."""
        return dict(sorted(self._components.items()))

    def message(self, type_name: str) -> Message:
        """The declaration that a field's or method's type name, with its leading dot, stands for."""
        if type_name not in self._contract.messages:
            raise CodegenError(f"{type_name.lstrip('.')} is named by an RPC but declared nowhere.")
        return self._contract.messages[type_name]

    def reference(self, type_name: str) -> JsonObject:
        """Schema of a type by name: its own JSON form, or a reference to its component."""
        if type_name in WELL_KNOWN:
            return dict(WELL_KNOWN[type_name])
        name = type_name.lstrip(".")
        if name not in self._components:
            self._components[name] = {}  # holds the place while a type that contains itself is being described
            if type_name in self._contract.enums:
                self._components[name] = self._enum(type_name)
            else:
                self._components[name] = self.object(self.message(type_name))
        return {"$ref": f"#/components/schemas/{name}"}

    def object(self, message: Message, *, without: frozenset[str] = frozenset()) -> JsonObject:
        """Schema of a message, less the fields that travel elsewhere, such as in the path."""
        kept = [(at, field) for at, field in enumerate(message.proto.field) if field.name not in without]
        schema: JsonObject = {"type": "object"}
        if comment := self._contract.comment(message.file, message.at):
            schema["description"] = comment
        if kept:
            schema["properties"] = {field.name: self.field(message, at) for at, field in kept}
        if required := [field.name for _, field in kept if "REQUIRED" in self._contract.behaviors(field)]:
            schema["required"] = required
        choices = _choices(message.proto, [field for _, field in kept])
        if len(choices) == 1:
            schema.update(choices[0])
        elif choices:
            schema["allOf"] = choices
        return schema

    def field(self, message: Message, at: int) -> JsonObject:
        """Schema of one field with its comment."""
        field = message.proto.field[at]
        schema = self._repeated(field) if field.label == FieldDescriptorProto.LABEL_REPEATED else self._single(field)
        if comment := self._contract.comment(message.file, (*message.at, FIELD, at)):
            schema["description"] = comment
        behaviors = self._contract.behaviors(field)
        if "OUTPUT_ONLY" in behaviors:
            schema["readOnly"] = True
        if "INPUT_ONLY" in behaviors:
            schema["writeOnly"] = True
        if field.options.deprecated:
            schema["deprecated"] = True
        return schema

    def _single(self, field: FieldDescriptorProto) -> JsonObject:
        if field.type_name:
            return self.reference(field.type_name)
        return dict(SCALARS[field.type])

    def _repeated(self, field: FieldDescriptorProto) -> JsonObject:
        entry = self._contract.messages.get(field.type_name)
        if entry is not None and entry.proto.options.map_entry:
            return {"type": "object", "additionalProperties": self._single(entry.proto.field[1])}
        return {"type": "array", "items": self._single(field)}

    def _enum(self, type_name: str) -> JsonObject:
        enum = self._contract.enums[type_name]
        lines = [self._contract.comment(enum.file, enum.at)]
        for index, value in enumerate(enum.proto.value):
            if comment := self._value_comment(type_name, (*enum.at, ENUM_VALUE, index)):
                lines.append(f"- `{value.name}`: {comment}")
        schema: JsonObject = {"type": "string", "enum": _value_names(enum.proto)}
        if description := "\n".join(line for line in lines if line):
            schema["description"] = description
        return schema

    def _value_comment(self, type_name: str, at: Location) -> str:
        return " ".join(self._contract.comment(self._contract.enums[type_name].file, at).split())


def _value_names(enum: EnumDescriptorProto) -> list[str]:
    return [value.name for value in enum.value]


def _choices(message: DescriptorProto, fields: list[FieldDescriptorProto]) -> list[JsonObject]:
    """One schema per oneof that says: at most one of these."""
    choices: list[JsonObject] = []
    for index in range(len(message.oneof_decl)):
        members = [
            {"required": [field.name]}
            for field in fields
            if field.HasField("oneof_index") and field.oneof_index == index and not field.proto3_optional
        ]
        if len(members) > 1:
            choices.append({"oneOf": [*members, {"not": {"anyOf": members}}]})
    return choices
