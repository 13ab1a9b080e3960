"""The texts inside requests, found by walking the contracts, so that a new field is there by itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from tests.support.public_rpcs import Rpc

_MAX_DEPTH: Final = 5


@dataclass(frozen=True, slots=True)
class TextField:
    """A text somewhere in a request."""

    rpc: Rpc
    #: Names from the request down to the text.
    path: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its own name, such as `run_id`."""
        return self.path[-1]

    def __str__(self) -> str:
        return f"{self.rpc.name}:{'.'.join(self.path)}"

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
        if at.DESCRIPTOR.fields_by_name[self.name].is_repeated:
            del getattr(at, self.name)[:]
            getattr(at, self.name).append(text)
        else:
            setattr(at, self.name, text)
        return changed


def text_fields(rpc: Rpc) -> Iterator[TextField]:
    """Lists the texts of a request, those of messages inside included; maps and JSON are looked at elsewhere."""
    for path in _paths(rpc.method.input_type, ()):
        yield TextField(rpc, path)


def _paths(message: Descriptor, above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for field in message.fields:
        inside = field.message_type
        if inside is None:
            if field.type == FieldDescriptor.TYPE_STRING:
                yield (*above, field.name)
        elif inside.full_name.startswith("comitia.") and not inside.GetOptions().map_entry and len(above) < _MAX_DEPTH:
            yield from _paths(inside, (*above, field.name))
