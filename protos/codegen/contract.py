"""What the generators know about an RPC: its types, comment, guard and HTTP rules, read from the descriptor set."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.api.field_behavior_pb2 import FieldBehavior, field_behavior
from google.api.http_pb2 import HttpRule
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FieldOptions,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)

from protos.codegen.errors import CodegenError

GUARD = "comitia.common.v1.guard"
HTTP = "google.api.http"
#: Package prefix of the contracts that are ours.
OWN = "comitia."

# Field numbers in descriptor.proto; source locations are addressed by them.
MESSAGE, ENUM, SERVICE = 4, 5, 6
METHOD = 2
FIELD, NESTED_MESSAGE, NESTED_ENUM = 2, 3, 4
ENUM_VALUE = 2

#: Address of a declaration within its file, as source locations spell it.
Location = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GuardOption:
    """The guard annotation of one RPC; see `comitia/common/v1/guard.proto`."""

    permission: str
    per_tenant_per_second: int
    max_seconds: int
    open: bool
    peers: frozenset[str]
    audit: bool
    per_subject_per_second: int
    per_address_per_second: int
    per_tenant_in_progress: int
    of_project: bool
    audit_read: bool


@dataclass(frozen=True, slots=True)
class Rpc:
    """One RPC of ours."""

    file: FileDescriptorProto
    service: ServiceDescriptorProto
    method: MethodDescriptorProto
    comment: str
    guard: GuardOption | None
    #: The rule itself, then its additional bindings. Empty when the RPC has no REST form.
    http: tuple[HttpRule, ...]

    @property
    def path(self) -> str:
        """Name on the wire, `/comitia.x.v1.Svc/Method`."""
        return f"/{self.file.package}.{self.service.name}/{self.method.name}"


@dataclass(frozen=True, slots=True)
class Message:
    """A message and where it stands."""

    file: FileDescriptorProto
    at: Location
    proto: DescriptorProto


@dataclass(frozen=True, slots=True)
class Enum:
    """An enum and where it stands."""

    file: FileDescriptorProto
    at: Location
    proto: EnumDescriptorProto


class Contract:
    """The descriptor set with its custom options and comments at hand."""

    def __init__(self, files: FileDescriptorSet) -> None:
        self.files = files
        self._pool = descriptor_pool.DescriptorPool()
        for file in files.file:
            self._pool.Add(file)
        options = self._pool.FindMessageTypeByName("google.protobuf.MethodOptions")
        self._options = message_factory.GetMessageClass(options)
        self._comments = {file.name: _comments(file) for file in files.file}
        #: By full name with a leading dot, as fields name their types.
        self.messages: dict[str, Message] = {}
        self.enums: dict[str, Enum] = {}
        for file in files.file:
            self._index(file)

    def comment(self, file: FileDescriptorProto, path: Location) -> str:
        """The comment before a declaration, or else behind it, as plain text."""
        return self._comments[file.name].get(path, "")

    def own_files(self) -> Iterator[FileDescriptorProto]:
        """Files of our own packages, by name."""
        for file in sorted(self.files.file, key=lambda file: file.name):
            if file.package.startswith(OWN):
                yield file

    def behaviors(self, field: FieldDescriptorProto) -> frozenset[str]:
        """Names of the field's `google.api.field_behavior`, such as REQUIRED."""
        options: Any = FieldOptions.FromString(field.options.SerializeToString())  # the stubs know no extensions
        return frozenset(FieldBehavior.Name(value) for value in options.Extensions[field_behavior])

    def rpcs(self) -> list[Rpc]:
        """Our RPCs, sorted by name on the wire."""
        found = [rpc for file in self.own_files() for rpc in self._rpcs_of(file)]
        return sorted(found, key=lambda rpc: rpc.path)

    def _index(self, file: FileDescriptorProto) -> None:
        def nested(prefix: str, at: Location, message: DescriptorProto) -> None:
            name = f"{prefix}.{message.name}"
            self.messages[name] = Message(file, at, message)
            for index, enum in enumerate(message.enum_type):
                self.enums[f"{name}.{enum.name}"] = Enum(file, (*at, NESTED_ENUM, index), enum)
            for index, inner in enumerate(message.nested_type):
                nested(name, (*at, NESTED_MESSAGE, index), inner)

        prefix = f".{file.package}" if file.package else ""
        for index, message in enumerate(file.message_type):
            nested(prefix, (MESSAGE, index), message)
        for index, enum in enumerate(file.enum_type):
            self.enums[f"{prefix}.{enum.name}"] = Enum(file, (ENUM, index), enum)

    def _rpcs_of(self, file: FileDescriptorProto) -> Iterator[Rpc]:
        for at, service in enumerate(file.service):
            for index, method in enumerate(service.method):
                yield Rpc(
                    file=file,
                    service=service,
                    method=method,
                    comment=self.comment(file, (SERVICE, at, METHOD, index)),
                    guard=self._guard(method),
                    http=self._http(method),
                )

    def _option(
        self, method: MethodDescriptorProto, name: str
    ) -> Any:  # a message class of our own pool has no static type
        options: Any = self._options.FromString(method.options.SerializeToString())
        try:
            extension = self._pool.FindExtensionByName(name)
        except KeyError as missing:
            raise CodegenError(f"No proto declares the option ({name}), which every RPC needs.") from missing
        return options.Extensions[extension] if options.HasExtension(extension) else None

    def _guard(self, method: MethodDescriptorProto) -> GuardOption | None:
        guard = self._option(method, GUARD)
        if guard is None:
            return None
        return GuardOption(
            permission=guard.permission,
            per_tenant_per_second=guard.per_tenant_per_second,
            max_seconds=guard.max_seconds,
            open=guard.open,
            peers=frozenset(guard.peers),
            audit=guard.audit,
            per_subject_per_second=guard.per_subject_per_second,
            per_address_per_second=guard.per_address_per_second,
            per_tenant_in_progress=guard.per_tenant_in_progress,
            of_project=guard.of_project,
            audit_read=guard.audit_read,
        )

    def _http(self, method: MethodDescriptorProto) -> tuple[HttpRule, ...]:
        option = self._option(method, HTTP)
        if option is None:
            return ()
        rule = HttpRule.FromString(option.SerializeToString())
        return (rule, *rule.additional_bindings)


def _comments(file: FileDescriptorProto) -> dict[Location, str]:
    found: dict[Location, str] = {}
    for location in file.source_code_info.location:
        text = location.leading_comments or location.trailing_comments
        if text:
            found[tuple(location.path)] = "\n".join(line.strip() for line in text.strip().splitlines())
    return found
