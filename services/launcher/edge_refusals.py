"""What the edge answers when it refuses a request itself, in the words and shape that every service uses."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import quote

from google.protobuf.any_pb2 import Any as AnyProto
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

_DOMAIN: Final = "edge.comitia"
_TYPE: Final = "type.googleapis.com/google.rpc."
#: What Envoy itself says about the request, such as the JSON error of the transcoder.
_WHY: Final = "%LOCAL_REPLY_BODY%"
#: Reason of a request that the transcoder cannot read.
MALFORMED: Final = "MALFORMED_REQUEST"
#: Field of such a request; `bodies.lua.j2` puts a more exact one in its place where it finds it.
UNKNOWN_PLACE: Final = "request"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One answer of the edge: when it is given, and what it says."""

    status: int
    code: int
    reason: str
    #: What happened and what to do; may hold Envoy's `%…%` operators.
    message: str
    #: Part of Envoy's response code details that tells this refusal from others of its status.
    details: str = ""
    comparison: Literal["EQ", "GE"] = "EQ"
    #: HTTP status that callers get, where Envoy's own says something else than the services would.
    told: int | None = None
    retry_seconds: int | None = None
    #: Field at fault; may hold operators.
    at: str = ""
    #: The values that the message mentions.
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def sentence(self) -> str:
        """The message without operators, percent-encoded as a header must be."""
        return quote(self.message.replace(f": {_WHY}", ""), safe=" `'()/:;,.<>=-")

    @property
    def body(self) -> dict[str, Any]:
        """`google.rpc.Status` as open JSON, the way the transcoder writes those of the services."""
        details: list[dict[str, Any]] = [
            {"@type": f"{_TYPE}ErrorInfo", "reason": self.reason, "domain": _DOMAIN, "metadata": dict(self.metadata)}
        ]
        if self.retry_seconds:
            details.append({"@type": f"{_TYPE}RetryInfo", "retry_delay": f"{self.retry_seconds}s"})
        if self.at:
            violation = {"field": self.at, "description": self.message, "reason": self.reason}
            details.append({"@type": f"{_TYPE}BadRequest", "field_violations": [violation]})
        return {"code": self.code, "message": self.message, "details": details}

    @property
    def details_header(self) -> str:
        """The same for gRPC, as the value of `grpc-status-details-bin`. Its message cannot hold operators."""
        status = status_pb2.Status(code=self.code, message=self.message.replace(f": {_WHY}", ""))
        details: list[Message] = [
            error_details_pb2.ErrorInfo(reason=self.reason, domain=_DOMAIN, metadata=self.metadata)
        ]
        if self.retry_seconds:
            details.append(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=self.retry_seconds)))
        for detail in details:
            packed = AnyProto()
            packed.Pack(detail)
            status.details.append(packed)
        return base64.b64encode(status.SerializeToString()).decode().rstrip("=")


_TOKEN_HELP: Final = "send `authorization: Bearer <token>` (`comitia token` prints one) or `x-api-key: ck_…`"

#: Largest message, bytes: that of the services. Larger ones are refused here, in a form that names the limit.
MAX_REQUEST_BYTES: Final = 4 * 1024 * 1024

#: In order: the first that fits speaks.
REFUSALS: Final = (
    Refusal(
        status=400,
        details="lua_response",
        code=code_pb2.INVALID_ARGUMENT,
        reason="UNKNOWN_FIELD",
        message=f"%RESP(X-COMITIA-FIELD)% {_WHY}; see GET /v1/openapi.json for the fields it has",
        at="%RESP(X-COMITIA-FIELD)%",
    ),
    Refusal(
        status=400,
        details="grpc_json_transcode",
        code=code_pb2.INVALID_ARGUMENT,
        reason=MALFORMED,
        message=f"the request does not fit the API, see GET /v1/openapi.json: {_WHY}",
        at=UNKNOWN_PLACE,
    ),
    Refusal(
        status=400,
        code=code_pb2.INVALID_ARGUMENT,
        reason="MALFORMED_HTTP",
        message="the HTTP request is malformed; send a plain path without escaped slashes, and headers without `_`",
    ),
    Refusal(
        status=401,
        details="Jwt_is_missing",
        code=code_pb2.UNAUTHENTICATED,
        reason="TOKEN_MISSING",
        message=f"this call needs an identity; {_TOKEN_HELP}",
    ),
    Refusal(
        status=401,
        details="Jwt_is_expired",
        code=code_pb2.UNAUTHENTICATED,
        reason="TOKEN_EXPIRED",
        message="the access token is no longer valid; get a new one with `comitia token` or POST /v1/token",
    ),
    Refusal(
        status=401,
        code=code_pb2.UNAUTHENTICATED,
        reason="TOKEN_INVALID",
        message=f"the access token is none of this mesh; {_TOKEN_HELP}",
    ),
    Refusal(
        status=403,
        told=401,
        code=code_pb2.UNAUTHENTICATED,
        reason="TOKEN_NOT_FOR_US",
        message=f"the access token is meant for something else; {_TOKEN_HELP}",
    ),
    Refusal(
        status=404,
        code=code_pb2.UNIMPLEMENTED,
        reason="NO_SUCH_METHOD",
        message="nothing answers to this method and path; see GET /v1/openapi.json or `grpcurl <address> list`",
    ),
    Refusal(
        status=408,
        code=code_pb2.DEADLINE_EXCEEDED,
        reason="REQUEST_TOO_SLOW",
        message="the request did not arrive in time; send it again",
    ),
    Refusal(
        status=413,
        code=code_pb2.INVALID_ARGUMENT,
        reason="REQUEST_TOO_LARGE",
        message="the body is larger than the edge takes (4 MiB); send less, or the content in parts",
        metadata={"limit_bytes": str(MAX_REQUEST_BYTES)},
    ),
    Refusal(
        status=429,
        code=code_pb2.RESOURCE_EXHAUSTED,
        reason="RATE_LIMITED",
        message="too many calls in this second; wait a second and send fewer at once",
        retry_seconds=1,
    ),
    Refusal(
        status=431,
        code=code_pb2.INVALID_ARGUMENT,
        reason="HEADERS_TOO_LARGE",
        message="the headers are larger than the edge takes (32 KiB, 64 of them); send fewer",
    ),
    Refusal(
        status=503,
        code=code_pb2.UNAVAILABLE,
        reason="SERVICE_UNAVAILABLE",
        message="the service behind this call does not answer right now; try again shortly, see GET /v1/status",
        retry_seconds=1,
    ),
    Refusal(
        status=504,
        code=code_pb2.DEADLINE_EXCEEDED,
        reason="DEADLINE_EXCEEDED",
        message="the service did not answer within the longest time this call may take; try again, see GET /v1/status",
    ),
    Refusal(
        status=500,
        comparison="GE",
        code=code_pb2.INTERNAL,
        reason="EDGE_FAILED",
        message=f"the edge could not finish this call; report the x-request-id of the answer: {_WHY}",
    ),
    Refusal(
        status=400,
        comparison="GE",
        code=code_pb2.INVALID_ARGUMENT,
        reason="EDGE_REFUSED",
        message=f"the edge does not take this request: {_WHY}",
    ),
)
