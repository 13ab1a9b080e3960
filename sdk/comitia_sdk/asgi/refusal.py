"""What callers are told when they are not let in: `google.rpc.Status` as JSON, the way the mesh says it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from google.rpc import code_pb2

from comitia_sdk.asgi.interface import Receive, Scope, Send
from comitia_sdk.errors import ComitiaError, LimitReached, PermissionDenied, Unauthenticated

_DOMAIN: Final = "asgi.comitia"
_TYPE: Final = "type.googleapis.com/google.rpc."
#: Closes a WebSocket that is not let in; before it is accepted the server makes 403 of any code.
_POLICY_VIOLATION: Final = 1008


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One answer."""

    status: int
    code: int
    reason: str
    message: str
    retry_seconds: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def body(self) -> bytes:
        """The JSON text."""
        details: list[dict[str, Any]] = [
            {"@type": f"{_TYPE}ErrorInfo", "reason": self.reason, "domain": _DOMAIN, "metadata": dict(self.metadata)}
        ]
        if self.retry_seconds:
            details.append({"@type": f"{_TYPE}RetryInfo", "retry_delay": f"{self.retry_seconds}s"})
        said = {"code": self.code, "message": self.message, "details": details}
        return json.dumps(said, separators=(",", ":")).encode()

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of the answer."""
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(self.body)).encode()),
            (b"cache-control", b"no-store"),
            (b"x-comitia-refused", self.reason.encode()),
        ]
        if self.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if self.retry_seconds:
            headers.append((b"retry-after", str(self.retry_seconds).encode()))
        return headers


class Refused(Exception):
    """Carries a refusal to where it is answered."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


MISSING: Final = Refusal(
    status=401,
    code=code_pb2.UNAUTHENTICATED,
    reason="TOKEN_MISSING",
    message="this call needs an identity; send `authorization: Bearer <token>` or `x-api-key: ck_…`",
)
#: One text for all that proves nothing, so that nobody learns what was wrong with it.
INVALID: Final = Refusal(
    status=401,
    code=code_pb2.UNAUTHENTICATED,
    reason="TOKEN_INVALID",
    message="the token or API key is not valid here; send one, and get a new one if it has expired",
)
UNAVAILABLE: Final = Refusal(
    status=503,
    code=code_pb2.UNAVAILABLE,
    reason="MESH_UNREACHABLE",
    message="the mesh behind this application does not answer right now; try again shortly",
    retry_seconds=1,
)


def refusal_of(error: ComitiaError) -> Refusal:
    """Says to a caller what the mesh said about them; of failures that are none of theirs, no more than that."""
    if isinstance(error, Unauthenticated):
        return INVALID
    if isinstance(error, PermissionDenied):
        return forbidden(error.reason, error.message, error.metadata)
    if isinstance(error, LimitReached):
        wait = error.retry_after.total_seconds() if error.retry_after else 1.0
        return Refusal(
            status=429,
            code=code_pb2.RESOURCE_EXHAUSTED,
            reason=error.reason,
            message=error.message,
            retry_seconds=max(1, round(wait)),
        )
    return UNAVAILABLE


def forbidden(reason: str, message: str, metadata: Mapping[str, str] | None = None) -> Refusal:
    """Makes a refusal of somebody who is known."""
    return Refusal(status=403, code=code_pb2.PERMISSION_DENIED, reason=reason, message=message, metadata=metadata or {})


async def refuse(refusal: Refusal, scope: Scope, receive: Receive, send: Send, *, connected: bool = False) -> None:
    """Answers with a refusal: a response, or for a WebSocket no connection, with the response where servers can.

    Args:
        connected: the application has heard of the WebSocket that wants to connect.
    """
    kind = "http.response"
    if scope["type"] == "websocket":
        if not connected and (await receive())["type"] != "websocket.connect":
            return
        kind = "websocket.http.response"
        if kind not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": refusal.reason})
            return
    await send({"type": f"{kind}.start", "status": refusal.status, "headers": refusal.headers})
    await send({"type": f"{kind}.body", "body": refusal.body, "more_body": False})
