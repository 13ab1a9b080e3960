"""Reflection as the edge shows it: the public face of all seven services, from the merged descriptor set.

The gateway's own port answers `grpc.reflection.…` for the gateway alone, as every service does for itself. The edge
sends what callers outside ask to the service here, under a name of its own; v1 and v1alpha are the same on the wire.
"""

from collections.abc import Mapping
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool

from comitia.guard_table import Guard
from services.meshkit.grpc.reflection import ReflectionServicer

#: `deploy/envoy/routes.yaml.j2` sends reflection here.
_SERVICE: Final = "comitia.edge.ServerReflection"
_METHOD: Final = "ServerReflectionInfo"
#: Guard of the one RPC, which is no public contract.
GUARD: Final = {f"/{_SERVICE}/{_METHOD}": Guard("", 0, 300, True, frozenset())}


def public_face(descriptors: bytes, guards: Mapping[str, Guard]) -> tuple[descriptor_pool.DescriptorPool, list[str]]:
    """Reads a descriptor set without what outside callers cannot reach: RPCs for certain services only.

    Returns: a pool, and the full names of the services that have a public RPC, health and reflection included.
    """
    pool = descriptor_pool.DescriptorPool()
    services: list[str] = []
    for file in descriptor_pb2.FileDescriptorSet.FromString(descriptors).file:
        for service in file.service:
            name = f"{file.package}.{service.name}"
            public = [method for method in service.method if not _internal(guards.get(f"/{name}/{method.name}"))]
            del service.method[:]
            service.method.extend(public)
            if public:
                services.append(name)
        pool.Add(file)
    return pool, sorted(services)


def add_to_server(server: Any, *, descriptors: bytes, guards: Mapping[str, Guard]) -> None:
    """Registers reflection for the whole mesh."""
    pool, services = public_face(descriptors, guards)
    handler = ReflectionServicer(services, pool=pool).handler()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler}),))


def _internal(guard: Guard | None) -> bool:
    return guard is not None and bool(guard.peers)
