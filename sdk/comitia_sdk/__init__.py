"""Client of a Comitia mesh.

from comitia_sdk import Client

with Client() as client:
    session = client.sessions.start("Tabs or spaces?", agents=["Athena", "Apollo"])
    for event in client.sessions.watch(session.session_id):
        if event.WhichOneof("event") == "turn_completed":
            print(event.turn_completed.output.content)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from comitia_sdk.aio import AsyncClient
    from comitia_sdk.errors import (
        AlreadyExists,
        ComitiaError,
        Conflict,
        FailedPrecondition,
        InternalFailure,
        InvalidRequest,
        LimitReached,
        MeshUnavailable,
        NotFound,
        PermissionDenied,
        RateLimited,
        TimedOut,
        Unauthenticated,
    )
    from comitia_sdk.money import nano_usd, usd
    from comitia_sdk.sync import Client

__all__ = [
    "AlreadyExists",
    "AsyncClient",
    "Client",
    "ComitiaError",
    "Conflict",
    "FailedPrecondition",
    "InternalFailure",
    "InvalidRequest",
    "LimitReached",
    "MeshUnavailable",
    "NotFound",
    "PermissionDenied",
    "RateLimited",
    "TimedOut",
    "Unauthenticated",
    "nano_usd",
    "usd",
]

_HOMES = {"AsyncClient": "aio", "Client": "sync", "nano_usd": "money", "usd": "money"}


def __getattr__(name: str) -> Any:
    """Imports on first use: gRPC and the contracts take a moment, and `comitia --help` needs neither."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
