"""The texts inside requests, found by walking the contracts, so that a new field is there by itself."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from tests.support.public_rpcs import Rpc

_MAX_DEPTH: Final = 5
#: Under which key a text is put into a map that gives some of its keys a meaning.
_KEYS: Final[Mapping[str, str]] = {"metadata": "project"}


@dataclass(frozen=True, slots=True)
class TextField:
    """A text somewhere in a request: in a field, as a value in a map, as a key of one, or anywhere in JSON."""

    rpc: Rpc
    #: Names from the request down to the text, the map or the JSON.
    path: tuple[str, ...]
    is_key: bool = False

    @property
    def name(self) -> str:
        """Its own name, such as `run_id`."""
        return self.path[-1]

    def __str__(self) -> str:
        return f"{self.rpc.name}:{'.'.join(self.path)}{' (key)' if self.is_key else ''}"

    def put(self, request: Message, text: str) -> Message:
        """Gives a copy of a request with this text; messages on the way are made, of lists the first is changed."""
        changed = type(request)()
        changed.CopyFrom(request)
        at: Any = changed
        for name in self.path[:-1]:
            inside = getattr(at, name)
            if not isinstance(inside, Message):
                inside = inside[0] if len(inside) else inside.add()
            at = inside
        at.SetInParent()
        field = at.DESCRIPTOR.fields_by_name[self.name]
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            of = field.message_type.fields_by_name["value"]
            key = text if self.is_key else _KEYS.get(self.name, "key")
            if of.message_type is not None:
                getattr(at, self.name)[key].SetInParent()
            else:
                getattr(at, self.name)[key] = of.default_value if self.is_key else text
        elif field.message_type is not None:
            getattr(at, self.name).update({text: text, "list": [text], "object": {text: text}})
        elif field.is_repeated:
            del getattr(at, self.name)[:]
            getattr(at, self.name).append(text)
        else:
            setattr(at, self.name, text)
        return changed


def text_fields(rpc: Rpc) -> Iterator[TextField]:
    """Lists the texts of a request, those of messages inside included."""
    for path, is_key in _paths(rpc.method.input_type, ()):
        yield TextField(rpc, path, is_key)


def _paths(message: Descriptor, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], bool]]:
    for field in message.fields:
        path, inside = (*above, field.name), field.message_type
        if inside is None:
            if field.type == FieldDescriptor.TYPE_STRING:
                yield path, False
        elif inside.GetOptions().map_entry:
            yield path, True
            if inside.fields_by_name["value"].type == FieldDescriptor.TYPE_STRING:
                yield path, False
        elif inside.full_name == Struct.DESCRIPTOR.full_name:
            yield path, False
        elif inside.full_name.startswith("comitia.") and len(above) < _MAX_DEPTH:
            yield from _paths(inside, path)
