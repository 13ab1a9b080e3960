"""One table between our error kinds and gRPC, used in both directions.

Every failure on the wire is a `google.rpc.Status` with `ErrorInfo{reason, domain, metadata}` and the detail that fits
its kind, so that nobody has to read prose.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyProto
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from services.meshkit.core.errors import ErrorKind, Invalid, MeshError

M = TypeVar("M", bound=Message)

STATUS_OF: Final[dict[ErrorKind, grpc.StatusCode]] = {
    ErrorKind.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorKind.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    ErrorKind.DENIED: grpc.StatusCode.PERMISSION_DENIED,
    ErrorKind.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorKind.EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    ErrorKind.PRECONDITION: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorKind.CONFLICT: grpc.StatusCode.ABORTED,
    ErrorKind.EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorKind.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    ErrorKind.DEADLINE: grpc.StatusCode.DEADLINE_EXCEEDED,
    ErrorKind.CANCELLED: grpc.StatusCode.CANCELLED,
    ErrorKind.INTERNAL: grpc.StatusCode.INTERNAL,
}
_KIND_OF: Final = {_status.value[0]: _kind for _kind, _status in STATUS_OF.items()}
_CODE_OF_NUMBER: Final = {code.value[0]: code for code in grpc.StatusCode}

#: Key of the trailer that carries the serialised `google.rpc.Status`.
DETAILS_TRAILER: Final = "grpc-status-details-bin"
#: Kinds after which a retry may help, when the error says when.
_MAY_HELP: Final = frozenset({ErrorKind.UNAVAILABLE, ErrorKind.EXHAUSTED, ErrorKind.CONFLICT})
#: Trailers are headers, and peers refuse more than 8 KB of those.
_MAX_MESSAGE: Final = 1024
_MAX_METADATA_VALUE: Final = 256
_MAX_METADATA_ENTRIES: Final = 16


class RemoteError(MeshError):
    """A failure that a neighbour reported. Keeps the neighbour's kind, reason, domain and metadata."""

    reason = "REMOTE_ERROR"

    def __init__(self, message: str, *, kind: ErrorKind, reason: str, domain: str, metadata: dict[str, str]) -> None:
        super().__init__(message)
        self.metadata = metadata
        self._shadow(kind, reason)
        #: Who failed first, such as `cost.comitia`; empty when the neighbour did not say.
        self.domain = domain

    def _shadow(self, kind: ErrorKind, reason: str) -> None:
        # What a class of ours fixes, an error from elsewhere carries by instance.
        self.__dict__["kind"] = kind
        self.__dict__["reason"] = reason


def to_status(error: MeshError, *, domain: str) -> status_pb2.Status:
    """Writes an error as the status that goes on the wire."""
    message = _clip(error.message, _MAX_MESSAGE)
    metadata = {
        key: _clip(value, _MAX_METADATA_VALUE) for key, value in list(error.metadata.items())[:_MAX_METADATA_ENTRIES]
    }
    if error.field is not None and error.kind is not ErrorKind.INVALID:
        # BadRequest is for requests that are wrong in themselves; what names, say, an absent thing says so here.
        metadata.setdefault("field", _clip(error.field, _MAX_METADATA_VALUE))
    origin = error.domain if isinstance(error, RemoteError) and error.domain else domain
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=origin, metadata=metadata)]
    details.extend(_details_by_kind(error, message))
    if error.retry_after is not None and error.kind in _MAY_HELP:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromTimedelta(error.retry_after)
        details.append(retry)
    status = status_pb2.Status(code=STATUS_OF[error.kind].value[0], message=message)
    for detail in details:
        packed = AnyProto()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _details_by_kind(error: MeshError, message: str) -> Iterator[Message]:
    match error.kind:
        case ErrorKind.INVALID if error.field is not None:
            sentence = error.sentence if isinstance(error, Invalid) else message
            violation = error_details_pb2.BadRequest.FieldViolation(
                field=_clip(error.field, _MAX_METADATA_VALUE),
                description=_clip(sentence, _MAX_MESSAGE),
                reason=error.reason,
            )
            yield error_details_pb2.BadRequest(field_violations=[violation])
        case ErrorKind.NOT_FOUND | ErrorKind.EXISTS:
            yield error_details_pb2.ResourceInfo(
                resource_type=_clip(error.metadata.get("resource_type", ""), _MAX_METADATA_VALUE),
                resource_name=_clip(error.metadata.get("resource_name", ""), _MAX_METADATA_VALUE),
                description=message,
            )
        case ErrorKind.PRECONDITION:
            unmet = error_details_pb2.PreconditionFailure.Violation(
                type=error.reason, subject=_subject(error), description=message
            )
            yield error_details_pb2.PreconditionFailure(violations=[unmet])
        case ErrorKind.EXHAUSTED:
            over = error_details_pb2.QuotaFailure.Violation(subject=_subject(error), description=message)
            yield error_details_pb2.QuotaFailure(violations=[over])
        case _:
            return


def _subject(error: MeshError) -> str:
    """The thing at fault: by our convention the first value of the metadata."""
    return _clip(next(iter(error.metadata.values()), ""), _MAX_METADATA_VALUE)


def _clip(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def from_status(status: status_pb2.Status) -> MeshError:
    """Reads a status that a neighbour sent."""
    info = _unpacked(status, error_details_pb2.ErrorInfo)
    retry = _unpacked(status, error_details_pb2.RetryInfo)
    request = _unpacked(status, error_details_pb2.BadRequest)
    kind = _KIND_OF.get(status.code, ErrorKind.INTERNAL)
    error = RemoteError(
        status.message, kind=kind, reason=info.reason or kind.name, domain=info.domain, metadata=dict(info.metadata)
    )
    error.retry_after = retry.retry_delay.ToTimedelta() if retry.HasField("retry_delay") else None
    error.field = request.field_violations[0].field if request.field_violations else info.metadata.get("field")
    return error


def _unpacked(status: status_pb2.Status, kind: type[M]) -> M:
    """The detail of this type, an empty one when the status has none."""
    detail = kind()
    for packed in status.details:
        if packed.Unpack(detail):
            break
    return detail


def remote_error(error: grpc.aio.AioRpcError) -> MeshError:
    """Reads the failure of a call to a neighbour, keeping kind, reason and metadata."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_TRAILER and isinstance(value, bytes):
            try:
                return from_status(status_pb2.Status.FromString(value))
            except DecodeError:
                break
    code = error.code()
    if code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED):
        # A neighbour that reports something of its own sends details. Without them gRPC made the error: the connection
        # broke under a message (RST_STREAM), a write failed on a stream that was ending (grpc #36066), or a server that
        # stops did not take the call, or not to its end (CANCELLED). One that this side gives up raises none of these.
        code = grpc.StatusCode.UNAVAILABLE
    return from_status(status_pb2.Status(code=code.value[0], message=error.details() or code.name))


@contextmanager
def remote_errors() -> Generator[None]:
    """Turns failed calls within the block into `MeshError`: `with remote_errors(): await stub.GetTool(...)`."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise remote_error(error) from error


def code_of(status: status_pb2.Status) -> grpc.StatusCode:
    """Gives the gRPC code of a status."""
    return _CODE_OF_NUMBER.get(status.code, grpc.StatusCode.UNKNOWN)
