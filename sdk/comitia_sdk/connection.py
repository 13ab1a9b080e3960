"""One connection to the edge: identity, deadlines, errors."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import urlsplit

import grpc
import grpc.aio

from comitia.gateway.v1 import identity_service_pb2, identity_service_pb2_grpc
from comitia_sdk.errors import ComitiaError, Unauthenticated, from_rpc_error

#: Time that a call may take when the caller names none, seconds.
DEFAULT_TIMEOUT: Final = 30.0
#: A token is exchanged anew this long before it stops working, seconds.
_MARGIN: Final = 60.0
_MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024

Request = TypeVar("Request", contravariant=True)
Response = TypeVar("Response", covariant=True)


class Unary(Protocol[Request, Response]):
    """A unary RPC of a generated stub."""

    def __call__(self, request: Request, *, timeout: float | None, metadata: Any) -> Awaitable[Response]:
        """Starts the call."""
        ...


class Streaming(Protocol[Request, Response]):
    """A server-streaming RPC of a generated stub."""

    def __call__(self, request: Request, *, timeout: float | None, metadata: Any) -> AsyncIterable[Response]:
        """Starts the call."""
        ...


class Connection:
    """A channel to the edge with the caller's identity.

    Args:
        url: `http://host:port` or `https://host:port`.
        api_key: `ck_…`, exchanged for access tokens as needed.
        access_token: used as it is, instead of a key; not renewed.
    """

    def __init__(self, url: str, *, api_key: str = "", access_token: str = "") -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ComitiaError(f"{url!r} is no address of a mesh; it looks like http://127.0.0.1:7400", reason="URL")
        target = f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
        options = [
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.max_reconnect_backoff_ms", 2_000),
        ]
        if parts.scheme == "https":
            self.channel = grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(), options=options)
        else:
            self.channel = grpc.aio.insecure_channel(target, options=options)
        self.url = url
        self._identity = identity_service_pb2_grpc.IdentityServiceStub(self.channel)
        self._api_key = api_key
        self._token = access_token
        self._renew_at = float("inf") if access_token else 0.0
        self._renewing = asyncio.Lock()

    async def close(self) -> None:
        """Closes the channel."""
        await self.channel.close()

    async def access_token(self) -> str:
        """Gives a token that works for another minute at least. Raises: Unauthenticated."""
        async with self._renewing:
            if time.time() < self._renew_at:
                return self._token
            if not self._api_key:
                raise Unauthenticated(
                    "no API key; set COMITIA_API_KEY, pass api_key, or start a mesh with `comitia up`",
                    reason="API_KEY_MISSING",
                )
            request = identity_service_pb2.ExchangeApiKeyRequest(api_key=self._api_key)
            try:
                answer = await self._identity.ExchangeApiKey(request, timeout=DEFAULT_TIMEOUT)
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from error
            self._token = answer.access_token
            self._renew_at = answer.expire_time.seconds - _MARGIN
            return self._token

    async def call(
        self, rpc: Unary[Request, Response], request: Request, *, timeout: float = DEFAULT_TIMEOUT
    ) -> Response:
        """Makes a unary call. Raises: ComitiaError."""
        metadata = await self._metadata()
        try:
            return await rpc(request, timeout=timeout, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    async def call_open(
        self, rpc: Unary[Request, Response], request: Request, *, timeout: float = DEFAULT_TIMEOUT
    ) -> Response:
        """Makes a unary call that needs no identity. Raises: ComitiaError."""
        try:
            return await rpc(request, timeout=timeout, metadata=None)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    async def stream(
        self, rpc: Streaming[Request, Response], request: Request, *, timeout: float | None = None
    ) -> AsyncGenerator[Response]:
        """Makes a streaming call and gives its messages. Raises: ComitiaError."""
        metadata = await self._metadata()
        try:
            async for message in rpc(request, timeout=timeout, metadata=metadata):
                yield message
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    async def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {await self.access_token()}"),)
