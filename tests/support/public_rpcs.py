"""Every public RPC as callers outside see it: read from the contracts, so that a new one is there by itself."""

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Final, cast
from urllib.parse import quote, urlencode

from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from comitia.guard_table import GUARDS, Guard

_PLACE: Final = re.compile(r"{([a-z_.]+)(?:=\*\*)?}")
_VERBS: Final = ("get", "put", "post", "delete", "patch")


@dataclass(frozen=True, slots=True)
class RestCall:
    """A request to be made."""

    verb: str
    path: str
    body: dict[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rpc:
    """An RPC of the contracts."""

    #: `/comitia.tools.v1.ToolService/InvokeTool`.
    path: str
    guard: Guard
    method: MethodDescriptor

    @property
    def name(self) -> str:
        """`ToolService/InvokeTool`."""
        return self.path.rpartition(".")[2]

    @property
    def streams(self) -> bool:
        """True when the answer is a stream."""
        return self.method.server_streaming

    @property
    def request_class(self) -> type[Message]:
        """Class of the request."""
        return message_factory.GetMessageClass(self.method.input_type)

    @property
    def response_class(self) -> type[Message]:
        """Class of the answer, or of each message of the stream."""
        return message_factory.GetMessageClass(self.method.output_type)

    def message(self, fields: Mapping[str, Any]) -> Message:
        """Makes the request for gRPC."""
        return ParseDict(dict(fields), self.request_class())

    def on(self, channel: Any) -> Any:
        """Gives the RPC on a channel, to be called with a request."""
        kind = channel.unary_stream if self.streams else channel.unary_unary
        return kind(
            self.path,
            request_serializer=self.request_class.SerializeToString,
            response_deserializer=self.response_class.FromString,
        )

    def rest(self, fields: Mapping[str, Any]) -> list[RestCall]:
        """Gives the requests for REST: the canonical one, then those of other paths."""
        return [_rest_call(binding, fields) for binding in self._bindings()]

    @property
    def verbs(self) -> frozenset[str]:
        """The REST verbs of all its paths: `get`, `post`, …"""
        return frozenset(verb for binding in self._bindings() for verb in _VERBS if getattr(binding, verb))

    def paths(self, place: str) -> list[tuple[str, str]]:
        """Gives verb and path of each request for REST, with the same text in every place."""
        verbs = [(next(verb for verb in _VERBS if getattr(rule, verb)), rule) for rule in self._bindings()]
        return [(verb.upper(), _PLACE.sub(quote(place), getattr(rule, verb))) for verb, rule in verbs]

    @property
    def places(self) -> frozenset[str]:
        """The fields that stand in its REST paths, such as `tenant.tenant_id`."""
        paths = (getattr(rule, verb) for rule in self._bindings() for verb in _VERBS)
        return frozenset(place[1] for path in paths for place in _PLACE.finditer(path))

    def _bindings(self) -> Iterator[http_pb2.HttpRule]:
        options: Any = descriptor_pb2.MethodOptions.FromString(self.method.GetOptions().SerializeToString())
        rule: http_pb2.HttpRule = options.Extensions[annotations_pb2.http]  # extensions of options have no types
        # A stream from the caller has no REST.
        yield from (binding for binding in (rule, *rule.additional_bindings) if binding.WhichOneof("pattern"))


def _rest_call(binding: http_pb2.HttpRule, fields: Mapping[str, Any]) -> RestCall:
    verb = next(verb for verb in _VERBS if getattr(binding, verb))
    left = deepcopy(dict(fields))

    def fill(place: re.Match[str]) -> str:
        *way, name = place[1].split(".")
        holder = left
        for step in way:
            holder = holder[step]
        # JSON leaves out a number that is zero, such as the index of the first entry.
        return quote(str(holder.pop(name, 0)), safe="@")

    path = _PLACE.sub(fill, getattr(binding, verb))
    body = left if binding.body == "*" else left.pop(binding.body) if binding.body else None
    if body is left:
        return RestCall(verb.upper(), path, left)
    query = urlencode([line for name, value in left.items() for line in _query(name, value)])
    return RestCall(verb.upper(), f"{path}?{query}" if query else path, body)


def _query(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Spells a field as the parameters of a query: those of messages inside by their way, lists one by one."""
    match value:
        case dict():
            for inner, of_inner in cast(dict[str, Any], value).items():
                yield from _query(f"{name}.{inner}", of_inner)
        case list():
            for one in cast(list[Any], value):
                yield from _query(name, one)
        case bool():
            yield name, str(value).lower()
        case _:
            yield name, str(value)


def _rpcs() -> Iterator[Rpc]:
    for package in sorted({path.split(".")[1] for path in GUARDS}):
        folder = import_module(f"comitia.{package}.v1")
        for found in iter_modules(folder.__path__):
            if found.name.endswith("_pb2"):
                yield from _rpcs_of(import_module(f"{folder.__name__}.{found.name}"))


def _rpcs_of(module: Any) -> Iterator[Rpc]:
    for service in module.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            path = f"/{service.full_name}/{method.name}"
            yield Rpc(path=path, guard=GUARDS[path], method=method)


_FOUND: Final = {rpc.path: rpc for rpc in _rpcs()}
assert _FOUND.keys() == GUARDS.keys(), f"there are no stubs for {GUARDS.keys() - _FOUND.keys()}"
PUBLIC: Final = tuple(rpc for rpc in _FOUND.values() if not rpc.guard.peers)
INTERNAL: Final = tuple(rpc for rpc in _FOUND.values() if rpc.guard.peers)
