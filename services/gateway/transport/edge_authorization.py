"""What the edge asks about an API key: `envoy.service.auth.v3.Authorization`.

The edge asks only when a request carries a key. It takes the key out and puts an access token in, so nothing behind
the edge ever sees a key. There is no route to this service at the edge.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc
from envoy.type.v3 import http_status_pb2
from google.protobuf import json_format
from google.rpc import status_pb2

from comitia.guard_table import Guard
from services.gateway.usecases.key_gate import KeyGate
from services.meshkit.core.errors import ErrorKind
from services.meshkit.core.key_secret import ApiKeyInvalid
from services.meshkit.grpc.client_address import FORWARDED_FOR, ClientAddresses
from services.meshkit.grpc.errors import to_status
from services.meshkit.grpc.limits import RateLimited
from services.meshkit.guard.errors import TenantSuspended

#: Guard of the one RPC, which is not ours to annotate: whoever holds a key may exchange it anyway.
GUARD: Final = {"/envoy.service.auth.v3.Authorization/Check": Guard("", 0, 2, True, frozenset())}

_DOMAIN: Final = "gateway.comitia"
_API_KEY: Final = "x-api-key"
_AUTHORIZATION: Final = "authorization"
_BEARER: Final = "bearer "
#: What `grpc-message` holds as it is.
_PLAIN: Final = " `'()/:;,.<>=-"

# The package xds-protos brings no types.
_auth: Any = external_auth_pb2
_auth_grpc: Any = external_auth_pb2_grpc
_base: Any = base_pb2
_http_status: Any = http_status_pb2

_HTTP: Final = {
    ErrorKind.UNAUTHENTICATED: _http_status.Unauthorized,
    ErrorKind.DENIED: _http_status.Forbidden,
    ErrorKind.EXHAUSTED: _http_status.TooManyRequests,
}


class EdgeAuthorization:
    """Turns an API key into an access token, or says why not in the caller's own protocol."""

    def __init__(self, gate: KeyGate, *, addresses: ClientAddresses) -> None:
        self._gate = gate
        self._addresses = addresses

    async def Check(self, request: Any, context: Any) -> Any:
        """See `envoy/service/auth/v3/external_auth.proto`. A failure of ours reaches the caller as 503."""
        headers: Mapping[str, str] = request.attributes.request.http.headers
        try:
            token = await self._gate(_key_of(headers), address=self._address(request, context))
        except (ApiKeyInvalid, RateLimited, TenantSuspended) as error:
            return _denied(error, grpc_caller=_speaks_grpc(headers))
        identity = _header(_AUTHORIZATION, f"Bearer {token.token}")
        ok = _auth.OkHttpResponse(headers=[identity], headers_to_remove=[_API_KEY])
        return _auth.CheckResponse(ok_response=ok)

    def _address(self, request: Any, context: Any) -> str:
        """Gives where the request came from: the edge names its connection, which no header of a client changes."""
        seen = request.attributes.source.address.socket_address.address
        return self._addresses.found(context.peer(), ((FORWARDED_FOR, seen),))


def add_to_server(servicer: EdgeAuthorization, server: Any) -> None:
    """Registers the servicer."""
    _auth_grpc.add_AuthorizationServicer_to_server(servicer, server)


def _key_of(headers: Mapping[str, str]) -> str:
    """Gives the key: `x-api-key`, else a bearer."""
    key = headers.get(_API_KEY, "")
    if key:
        return key
    bearer = headers.get(_AUTHORIZATION, "")
    return bearer[len(_BEARER) :].strip() if bearer.lower().startswith(_BEARER) else ""


def _speaks_grpc(headers: Mapping[str, str]) -> bool:
    """Tells a gRPC caller from a REST caller, whose request looks like gRPC by now."""
    transcoded = "x-envoy-original-path" in headers
    return not transcoded and headers.get("content-type", "").startswith("application/grpc")


def _denied(error: ApiKeyInvalid | RateLimited | TenantSuspended, *, grpc_caller: bool) -> Any:
    status = to_status(error, domain=_DOMAIN)
    if grpc_caller:
        details = base64.b64encode(status.SerializeToString()).decode().rstrip("=")
        headers = [
            _header("grpc-status", str(status.code)),
            _header("grpc-message", quote(status.message, safe=_PLAIN)),
            _header("grpc-status-details-bin", details),
        ]
        body = status.message
    else:
        headers = [_header("content-type", "application/json")]
        written = json_format.MessageToDict(
            status, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        body = json.dumps(written, separators=(",", ":"))
    headers.append(_header("x-comitia-refused", error.reason))
    if isinstance(error, RateLimited):
        headers.extend(_header(key, value) for key, value in error.headers)
    http = _http_status.HttpStatus(code=_HTTP[error.kind])
    return _auth.CheckResponse(
        status=status_pb2.Status(code=status.code),
        denied_response=_auth.DeniedHttpResponse(status=http, headers=headers, body=body),
    )


def _header(key: str, value: str) -> Any:
    option = _base.HeaderValueOption
    return option(header=_base.HeaderValue(key=key, value=value), append_action=option.OVERWRITE_IF_EXISTS_OR_ADD)
