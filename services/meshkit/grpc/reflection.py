"""Server reflection, v1 and v1alpha, so that grpcurl and its kin work unconfigured.

The package `grpcio-reflection` speaks v1alpha only. The two versions are identical on the wire, so v1 is served by the
same servicer under its own name, with a descriptor made from the one of v1alpha.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final, cast

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer as PackagedServicer

V1: Final = "grpc.reflection.v1.ServerReflection"
V1ALPHA: Final = "grpc.reflection.v1alpha.ServerReflection"
_METHOD: Final = "ServerReflectionInfo"
_V1_FILE: Final = "grpc/reflection/v1/reflection.proto"


class ReflectionServicer(PackagedServicer):
    """The servicer of the package, which also finds methods, and values below the name of their enum.

    Args:
        services: full names of the services to list.
        pool: where symbols are looked up; None: the pool of the process.
    """

    def __init__(self, services: Iterable[str], *, pool: descriptor_pool.DescriptorPool | None = None) -> None:
        found_in = _ExactPool(pool or descriptor_pool.Default())
        super().__init__(tuple(services), pool=found_in)  # pyright: ignore[reportUnknownMemberType]  # an untyped package

    def handler(self) -> Any:
        """Gives what answers `ServerReflectionInfo`, in either version."""
        return grpc.stream_stream_rpc_method_handler(
            cast(Any, self).ServerReflectionInfo,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )


class _ExactPool:
    """A pool whose `FindFileContainingSymbol` finds every symbol; protobuf's own knows no methods."""

    def __init__(self, pool: descriptor_pool.DescriptorPool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:  # the rest of the pool
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:
        """See `google.protobuf.descriptor_pool.DescriptorPool`. Raises: KeyError."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            parent, _, name = symbol.rpartition(".")
            file = self._pool.FindFileContainingSymbol(parent)
            if not self._is_inside(parent, name):
                raise
            return file

    def _is_inside(self, parent: str, name: str) -> bool:
        find: Any
        for find, inside in (
            (self._pool.FindServiceByName, "methods_by_name"),
            (self._pool.FindEnumTypeByName, "values_by_name"),
        ):
            try:
                return name in getattr(find(parent), inside)
            except KeyError:
                continue
        return False


def add_reflection(server: grpc.aio.Server, services: Iterable[str]) -> None:
    """Makes `server` answer what its services look like.

    Args:
        services: full names of the services to list, the reflection services aside.
    """
    _publish_v1()
    servicer = ReflectionServicer((*services, V1, V1ALPHA))
    add = cast(Callable[[Any, Any], None], reflection_pb2_grpc.add_ServerReflectionServicer_to_server)  # pyright: ignore[reportUnknownMemberType]
    add(servicer, server)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(V1, {_METHOD: servicer.handler()}),))


def _publish_v1() -> None:
    """Adds the descriptor of v1 to the process's pool, unless some package brought it already."""
    pool = descriptor_pool.Default()
    try:
        pool.FindFileContainingSymbol(V1)
    except KeyError:
        file = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(file)
        file.name, file.package = _V1_FILE, "grpc.reflection.v1"
        _rename_types(file)
        pool.Add(file)


def _rename_types(file: descriptor_pb2.FileDescriptorProto) -> None:
    def renamed(type_name: str) -> str:
        return type_name.replace(".grpc.reflection.v1alpha.", ".grpc.reflection.v1.")

    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = renamed(field.type_name)
    for service in file.service:
        for method in service.method:
            method.input_type, method.output_type = (renamed(method.input_type), renamed(method.output_type))
