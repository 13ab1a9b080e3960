"""The one error tree of the mesh.

    MeshError
    ├── Invalid               the request is wrong and says where          INVALID_ARGUMENT
    ├── Unauthenticated       nobody we know is calling                    UNAUTHENTICATED
    ├── PermissionDenied      known, but not allowed                       PERMISSION_DENIED
    ├── NotFound              absent, or another tenant's                  NOT_FOUND
    ├── AlreadyExists         the name is taken                            ALREADY_EXISTS
    ├── Precondition          the state does not allow it                  FAILED_PRECONDITION
    ├── Conflict              somebody else changed it meanwhile           ABORTED
    ├── Exhausted             a limit is reached                           RESOURCE_EXHAUSTED
    ├── Unavailable           a dependency is down; try again              UNAVAILABLE
    ├── DeadlineExceeded      the caller's time is used up                 DEADLINE_EXCEEDED
    ├── Cancelled             the caller went away                         CANCELLED
    └── Internal              our fault                                    INTERNAL

Services derive their own errors from these and give each a `reason` of its own.
"""

from collections.abc import Mapping
from datetime import timedelta
from enum import Enum
from typing import ClassVar, Self


class ErrorKind(Enum):
    """What went wrong, in the classes that callers act on."""

    INVALID = "invalid"
    UNAUTHENTICATED = "unauthenticated"
    DENIED = "denied"
    NOT_FOUND = "not_found"
    EXISTS = "exists"
    PRECONDITION = "precondition"
    CONFLICT = "conflict"
    EXHAUSTED = "exhausted"
    UNAVAILABLE = "unavailable"
    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    INTERNAL = "internal"


class MeshError(Exception):
    """A failure that the mesh understands and can put on the wire.

    Args:
        message: one sentence that says what happened and what to do.
        field: path of the request field at fault, such as `agents[1]`.
        retry_after: when a retry may help.
        metadata: the values that the message mentions, so that no one parses prose.
    """

    kind: ClassVar[ErrorKind] = ErrorKind.INTERNAL
    reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        /,
        *,
        field: str | None = None,
        retry_after: timedelta | None = None,
        **metadata: object,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after = retry_after
        self.metadata: dict[str, str] = {}
        self._add_metadata(metadata)

    def about(self, field: str) -> Self:
        """Gives the same failure of a field that is called otherwise where it is told."""
        same = type(self).__new__(type(self))
        sentence = self.message.removeprefix(f"{self.field}: ")
        message = self.message if sentence == self.message else f"{field}: {sentence}"
        same.__dict__.update(self.__dict__, field=field, message=message)
        same.args = (message,)
        return same

    def _add_metadata(self, values: Mapping[str, object]) -> None:
        self.metadata.update({key: str(value) for key, value in values.items() if value is not None})


class Invalid(MeshError):
    """A field of the request is wrong. Fix the request."""

    kind = ErrorKind.INVALID
    reason = "INVALID_FIELD"

    def __init__(self, field: str, sentence: str, /, **metadata: object) -> None:
        super().__init__(f"{field}: {sentence}", field=field)
        self._add_metadata(metadata)
        self.sentence = sentence


class Unauthenticated(MeshError):
    """The call carries no identity that we can verify."""

    kind = ErrorKind.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class PermissionDenied(MeshError):
    """The caller is known and not allowed to do this."""

    kind = ErrorKind.DENIED
    reason = "PERMISSION_DENIED"


class NotFound(MeshError):
    """No such thing in the caller's tenant. Another tenant's things are not found either."""

    kind = ErrorKind.NOT_FOUND
    reason = "NOT_FOUND"

    def __init__(self, noun: str, name: str, /, *, field: str | None = None, **metadata: object) -> None:
        sentence = f"{noun} {name!r} does not exist"
        sentence = sentence if field is None else f"{field}: {sentence}"
        super().__init__(sentence, field=field, resource_type=noun, resource_name=name)
        self._add_metadata(metadata)


class AlreadyExists(MeshError):
    """A thing of that name exists. Choose another name or version."""

    kind = ErrorKind.EXISTS
    reason = "ALREADY_EXISTS"

    def __init__(self, noun: str, name: str, /, **metadata: object) -> None:
        super().__init__(f"{noun} {name!r} already exists", resource_type=noun, resource_name=name)
        self._add_metadata(metadata)


class Precondition(MeshError):
    """The thing exists and its state does not allow this. Change the state first."""

    kind = ErrorKind.PRECONDITION
    reason = "FAILED_PRECONDITION"


class Conflict(MeshError):
    """Somebody else changed it meanwhile. Reload and redo the whole step."""

    kind = ErrorKind.CONFLICT
    reason = "CONFLICT"


class RequestIdReused(Conflict):
    """The same `request_id` came with another body. Use a new one."""

    reason = "REQUEST_ID_REUSED"

    def __init__(self, request_id: str) -> None:
        super().__init__(
            f"request_id {request_id!r} was used before with another body; use a new one",
            request_id=request_id,
        )


class Exhausted(MeshError):
    """A limit is reached. Wait or raise it."""

    kind = ErrorKind.EXHAUSTED
    reason = "LIMIT_REACHED"


class Unavailable(MeshError):
    """A dependency does not answer. Retry with backoff."""

    kind = ErrorKind.UNAVAILABLE
    reason = "UNAVAILABLE"

    def __init__(
        self,
        dependency: str,
        /,
        *,
        retry_after: timedelta = timedelta(seconds=1),
        **metadata: object,
    ) -> None:
        super().__init__(
            f"{dependency} does not answer right now; try again shortly",
            retry_after=retry_after,
            dependency=dependency,
        )
        self._add_metadata(metadata)


class DeadlineExceeded(MeshError):
    """The time that the caller gave is used up."""

    kind = ErrorKind.DEADLINE
    reason = "DEADLINE_EXCEEDED"


class Cancelled(MeshError):
    """The caller went away before the answer."""

    kind = ErrorKind.CANCELLED
    reason = "CANCELLED"


class Internal(MeshError):
    """Our fault. The incident id finds the log line."""

    kind = ErrorKind.INTERNAL
    reason = "INTERNAL"
