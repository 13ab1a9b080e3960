"""Client of a Comitia mesh.

from comitia_sdk import Client

with Client() as client:
    session = client.sessions.start("Tabs or spaces?", agents=["Athena", "Apollo"])
    for event in client.sessions.watch(session.session_id):
        if event.WhichOneof("event") == "turn_completed":
            print(event.turn_completed.output.content)
"""

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
    "TimedOut",
    "Unauthenticated",
    "nano_usd",
    "usd",
]
