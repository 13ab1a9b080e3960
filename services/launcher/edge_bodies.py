"""Which JSON fields each REST call may carry, read from the descriptor set.

Envoy's transcoder drops fields that a message does not have, so `max_round` for `max_rounds` would silently mean the
default. The edge refuses them instead; `deploy/envoy/bodies.lua.j2` does so with the tables made here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

#: Their JSON is no object with the fields of the message.
_OWN_JSON: Final = "google.protobuf."
_ANY_KEY: Final = "*"
_VERBS: Final = ("get", "put", "post", "delete", "patch")

#: Fields of a message by their names in JSON; the value names the message inside, empty for anything else.
Fields = dict[str, str]


@dataclass(frozen=True, slots=True)
class Body:
    """A REST call with a body."""

    method: str
    #: Lua pattern of its path.
    path: str
    #: Message that its body is.
    message: str


@dataclass(frozen=True, slots=True)
class BodyRules:
    """All that the edge needs to know about bodies."""

    bodies: tuple[Body, ...]
    messages: dict[str, Fields]
    #: RPCs, `/package.Service/Method`, whose callers send a stream: it has no end that could be waited for.
    streams: frozenset[str]


def body_rules(descriptors: bytes) -> BodyRules:
    """Reads the rules of all REST calls with a body."""
    pool = descriptor_pool.DescriptorPool()
    files = descriptor_pb2.FileDescriptorSet.FromString(descriptors).file
    for file in files:
        pool.Add(file)
    bodies: list[Body] = []
    messages: dict[str, Fields] = {}
    streams: set[str] = set()
    for file in files:
        for service in file.service:
            for method in pool.FindServiceByName(f"{file.package}.{service.name}".lstrip(".")).methods:
                if method.client_streaming:
                    streams.add(f"/{method.containing_service.full_name}/{method.name}")
                for body, message in _bodies(method):
                    bodies.append(body)
                    _learn(message, messages)
    return BodyRules(tuple(bodies), messages, frozenset(streams))


def _bodies(method: MethodDescriptor) -> Iterator[tuple[Body, Descriptor]]:
    options: Any = descriptor_pb2.MethodOptions.FromString(method.GetOptions().SerializeToString())
    rule: http_pb2.HttpRule = options.Extensions[annotations_pb2.http]  # extensions of options have no types
    for binding in (rule, *rule.additional_bindings):
        if not binding.body:
            continue
        verb, template = _verb_and_template(binding)
        message = method.input_type
        if binding.body != "*":
            inner = message.fields_by_name[binding.body].message_type
            if inner is None:
                continue
            message = inner
        yield Body(verb.upper(), _lua_pattern(template), message.full_name), message


def _verb_and_template(binding: http_pb2.HttpRule) -> tuple[str, str]:
    verb = next(verb for verb in _VERBS if getattr(binding, verb))
    template: str = getattr(binding, verb)
    return verb, template


def _lua_pattern(template: str) -> str:
    """Writes a path template as a Lua pattern: a variable is one segment, `{name=**}` the rest."""
    pieces: list[str] = []
    for literal, variable in re.findall(r"([^{]+)|\{([^}]*)\}", template):
        if literal:
            pieces.append(re.sub(r"([^A-Za-z0-9/_:])", r"%\1", literal))
        else:
            pieces.append(".+" if "**" in variable else "[^/]+")
    return f"^{''.join(pieces)}$"


def _learn(message: Descriptor, messages: dict[str, Fields]) -> None:
    """Notes the fields of a message and of all messages inside it."""
    if message.full_name in messages:
        return
    fields: Fields = {}
    messages[message.full_name] = fields
    for field in message.fields:
        inner = _inner(field, messages)
        fields[field.name] = inner
        fields[field.json_name] = inner


def _inner(field: FieldDescriptor, messages: dict[str, Fields]) -> str:
    message = field.message_type
    if message is None or message.full_name.startswith(_OWN_JSON):
        return ""
    if message.GetOptions().map_entry:
        value = _inner(message.fields_by_name["value"], messages)
        messages[message.full_name] = {_ANY_KEY: value}
    else:
        _learn(message, messages)
    return message.full_name
