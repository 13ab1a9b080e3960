"""What a failure looks like in each dialect: one table for all of ours.

The clients of both providers try again by themselves on 408, 409, 429 and 5xx, unless `x-should-retry` says no: so it
does where a repeat is useless or costs money once more.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from services.meshkit.core.errors import ErrorKind, MeshError


class Dialect(Enum):
    """Whose clients a door is for."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """How a failure is told: status and type of error in either dialect, and OpenAI's code for it."""

    status: int
    openai: str
    anthropic: str
    code: str | None = None
    #: What is said in the place of the failure's own words, where those are of no use at a door.
    message: str | None = None
    #: Where it differs from `status`.
    anthropic_status: int | None = None
    #: False: who repeats the request gets the same answer, or pays again.
    again: bool = True
    #: What Anthropic's clients read besides the type.
    details: Mapping[str, object] | None = None

    def status_in(self, dialect: Dialect) -> int:
        """Gives the status of the response."""
        if dialect is Dialect.ANTHROPIC and self.anthropic_status is not None:
            return self.anthropic_status
        return self.status


_REQUEST: Final = "invalid_request_error"
_INVALID: Final = Told(status=400, openai=_REQUEST, anthropic=_REQUEST)
_UNAVAILABLE: Final = Told(status=503, openai="server_error", anthropic="overloaded_error", anthropic_status=529)
_BUSY: Final = Told(status=429, openai="requests", anthropic="rate_limit_error", code="rate_limit_exceeded")
_NO_MONEY: Final = Told(
    status=429,
    openai="insufficient_quota",
    anthropic="billing_error",
    code="insufficient_quota",
    anthropic_status=402,
    again=False,
)
_FAILED: Final = Told(status=500, openai="server_error", anthropic="api_error")
_CONFLICT: Final = Told(status=409, openai=_REQUEST, anthropic=_REQUEST, again=False)

_BY_KIND: Final = {
    ErrorKind.INVALID: _INVALID,
    ErrorKind.UNAUTHENTICATED: Told(
        status=401, openai=_REQUEST, anthropic="authentication_error", code="invalid_api_key"
    ),
    ErrorKind.DENIED: Told(status=403, openai=_REQUEST, anthropic="permission_error"),
    ErrorKind.NOT_FOUND: Told(status=404, openai=_REQUEST, anthropic="not_found_error"),
    ErrorKind.EXISTS: _CONFLICT,
    ErrorKind.PRECONDITION: _INVALID,
    ErrorKind.CONFLICT: _CONFLICT,
    ErrorKind.EXHAUSTED: _BUSY,
    ErrorKind.UNAVAILABLE: _UNAVAILABLE,
    ErrorKind.DEADLINE: Told(
        status=504, openai="server_error", anthropic="timeout_error", anthropic_status=504, again=False
    ),
    ErrorKind.CANCELLED: _UNAVAILABLE,
    ErrorKind.INTERNAL: _FAILED,
}
_BY_REASON: Final[Mapping[str, Told]] = {
    "ANSWER_BROKE_OFF": Told(status=503, openai="server_error", anthropic="api_error", again=False),
    "ANSWER_UNJUDGED": Told(status=503, openai="server_error", anthropic="api_error", again=False),
    "BUDGET_DEGRADES": _NO_MONEY,
    "BUDGET_EXHAUSTED": _NO_MONEY,
    # Only an `Idempotency-Key` makes two requests one call, and nobody outside knows that by its id.
    "CALL_ARGUMENTS_DIFFER": replace(
        _CONFLICT, message="this Idempotency-Key was used for another request; send a new key"
    ),
    "CALL_IN_PROGRESS": Told(
        status=409,
        openai=_REQUEST,
        anthropic=_REQUEST,
        message="a request with this Idempotency-Key is being answered; repeat it to get its answer",
    ),
    "CONTEXT_TOO_LONG": Told(status=400, openai=_REQUEST, anthropic=_REQUEST, code="context_length_exceeded"),
    "LAW_BLOCKED": Told(status=400, openai=_REQUEST, anthropic=_REQUEST, code="content_policy_violation", again=False),
    "MODEL_NOT_FOUND": Told(status=404, openai=_REQUEST, anthropic="not_found_error", code="model_not_found"),
    "OUTPUT_INVALID": Told(status=422, openai=_REQUEST, anthropic=_REQUEST, again=False),
    "PROVIDER_REFUSED": Told(status=502, openai="server_error", anthropic="api_error", again=False),
    "QUOTA_EXCEEDED": _NO_MONEY,
    "REQUEST_IN_PROGRESS": Told(status=409, openai=_REQUEST, anthropic=_REQUEST),
    "REQUEST_TOO_LARGE": Told(status=413, openai=_REQUEST, anthropic="request_too_large"),
    "THREAD_UNSUPPORTED": Told(
        status=400,
        openai=_REQUEST,
        anthropic=_REQUEST,
        details={"error_code": "thread_unsupported_request", "unsupported": ["thread"]},
    ),
    "UNKNOWN_FIELD": Told(status=400, openai=_REQUEST, anthropic=_REQUEST, code="unsupported_parameter"),
}


def told(failure: MeshError) -> Told:
    """Gives how a failure is told: by its reason, else by its kind."""
    if failure.reason == "PROVIDER_REFUSED" and failure.field is not None:
        # Nobody was asked: the request wants what the model that it names cannot be told.
        return _BY_REASON["UNKNOWN_FIELD"]
    return _BY_REASON.get(failure.reason) or _BY_KIND[failure.kind]


def error_body(failure: MeshError, dialect: Dialect, *, request_id: str) -> dict[str, object]:
    """Writes the body of a failure."""
    said = told(failure)
    message = said.message or failure.message
    if dialect is Dialect.ANTHROPIC:
        error: dict[str, object] = {"type": said.anthropic, "message": message}
        if said.details is not None:
            error["details"] = said.details
        return {"type": "error", "error": error, "request_id": request_id}
    code = said.code or failure.reason.lower()
    return {"error": {"message": message, "type": said.openai, "param": failure.field, "code": code}}


def error_headers(failure: MeshError) -> dict[str, str]:
    """Gives what a client goes by when it decides whether to try again."""
    headers: dict[str, str] = {}
    if failure.retry_after is not None:
        seconds = failure.retry_after.total_seconds()
        headers["retry-after"] = str(max(1, math.ceil(seconds)))
        headers["retry-after-ms"] = str(max(1, math.ceil(seconds * 1000)))
    if not told(failure).again:
        headers["x-should-retry"] = "false"
    return headers
