"""What the mesh answers when it refuses, by what the caller can do about it.

ComitiaError
├── InvalidRequest       fix the request; `field` says where
├── Unauthenticated      the key or token is wrong
├── PermissionDenied     not allowed, by role or by law
├── NotFound             no such thing in this tenant
├── AlreadyExists        the name is taken
├── FailedPrecondition   the state does not allow it
├── Conflict             somebody else changed it; reload and redo
├── LimitReached         wait, or raise the limit
│   └── RateLimited      too many calls in a short time; `retry_after` says when one is taken again
├── MeshUnavailable      does not answer; retry with backoff
├── TimedOut             the time that was given is used up
└── InternalFailure      our fault; `metadata["incident_id"]` finds the log line
"""

from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Final

import grpc
import grpc.aio
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

_STATUS_KEY: Final = "grpc-status-details-bin"
_RATE_LIMITED: Final = "RATE_LIMITED"
_BROKE_OFF: Final = (
    "the connection to the mesh was lost in the middle of the call, so that nobody knows whether the call was done; "
    "make it again, with the same request_id if it has one"
)


class ComitiaError(Exception):
    """A call failed.

    Attributes:
        message: one sentence that says what happened and what to do.
        reason: such as `BUDGET_EXHAUSTED`; stable, for programs.
        field: path of the request's field at fault; empty otherwise.
        metadata: the values that the message mentions.
        retry_after: when a retry may help; None when it will not by itself.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        field: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.field = field
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after


class InvalidRequest(ComitiaError):
    """The request is wrong; `field` says where."""


class Unauthenticated(ComitiaError):
    """The key or token is missing, wrong, expired or revoked."""


class PermissionDenied(ComitiaError):
    """Not allowed, by role or by law."""


class NotFound(ComitiaError):
    """No such thing in this tenant."""


class AlreadyExists(ComitiaError):
    """The name is taken."""


class FailedPrecondition(ComitiaError):
    """The state does not allow it."""


class Conflict(ComitiaError):
    """Somebody else changed it meanwhile; reload and redo the whole step."""


class LimitReached(ComitiaError):
    """A limit is reached: wait, or raise it."""


class RateLimited(LimitReached):
    """Too many calls in a short time. This one was not begun; after `retry_after` it will be taken."""


class MeshUnavailable(ComitiaError):
    """The mesh, or a part of it, does not answer; retry with backoff."""


class TimedOut(ComitiaError):
    """The time that was given is used up."""


class InternalFailure(ComitiaError):
    """Our fault; the incident id in `metadata` finds the log line."""


_BY_CODE: Final[Mapping[grpc.StatusCode, type[ComitiaError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.UNIMPLEMENTED: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.ABORTED: Conflict,
    grpc.StatusCode.RESOURCE_EXHAUSTED: LimitReached,
    grpc.StatusCode.UNAVAILABLE: MeshUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: TimedOut,
}


#: What gRPC says when a connection breaks under a message, and when a write fails on a stream that is ending.
_SIGNS_OF_A_BREAK: Final = ("RST_STREAM", "Internal error from Core")


def broke_off(error: grpc.aio.AioRpcError) -> bool:
    """Tells whether the connection was lost after the call had begun; gRPC says INTERNAL then, as for our faults.

    Or CANCELLED, for a call that came to a server as it stopped. A failure of the mesh's own has details; this one is
    made here, by the edge or by gRPC, and has none.
    """
    said = error.details() or ""
    ours = error.code() is grpc.StatusCode.INTERNAL and any(sign in said for sign in _SIGNS_OF_A_BREAK)
    return (ours or error.code() is grpc.StatusCode.CANCELLED) and not _details(error)


def from_rpc_error(error: grpc.aio.AioRpcError) -> ComitiaError:
    """Reads status and details of a failed call."""
    if broke_off(error):
        return MeshUnavailable(_BROKE_OFF, reason="CONNECTION_LOST", metadata={"cause": error.details() or ""})
    kind = _BY_CODE.get(error.code(), InternalFailure)
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for detail in _details(error):
        for message in (info, bad, retry):
            if detail.TypeName() == message.DESCRIPTOR.full_name:
                with suppress(DecodeError):
                    message.MergeFromString(detail.value)
    if kind is LimitReached and info.reason == _RATE_LIMITED:
        kind = RateLimited
    return kind(
        error.details() or error.code().name,
        reason=info.reason or error.code().name,
        field=bad.field_violations[0].field if bad.field_violations else info.metadata.get("field", ""),
        metadata=info.metadata,
        retry_after=retry.retry_delay.ToTimedelta() if retry.HasField("retry_delay") else None,
    )


def _details(error: grpc.aio.AioRpcError) -> list[any_pb2.Any]:
    for key, value in error.trailing_metadata() or ():
        if key == _STATUS_KEY and isinstance(value, bytes):
            with suppress(DecodeError):  # a peer that is not ours; the status itself still holds
                return list(status_pb2.Status.FromString(value).details)
    return []
