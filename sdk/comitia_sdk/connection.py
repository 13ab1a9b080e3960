"""One connection to the edge: identity, deadlines, errors, pages."""

import asyncio
import ipaddress
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import SplitResult, urlsplit
from uuid import uuid4

import grpc
import grpc.aio
from google.protobuf.message import Message

from comitia.gateway.v1 import (
    identity_service_pb2,
    identity_service_pb2_grpc,
    user_service_pb2,
    user_service_pb2_grpc,
)
from comitia_sdk.credentials import MARGIN, Credentials, Token
from comitia_sdk.errors import ComitiaError, InvalidRequest, MeshUnavailable, broke_off, from_rpc_error

#: Time that a call may take when the caller names none, seconds.
DEFAULT_TIMEOUT: Final = 30.0
#: A limit is waited out when it lets a call through within this time, seconds.
_SHORT_WAIT: Final = 1.5
#: Limits that pass by themselves within moments; what they refuse has done nothing that a repeat would do again. Money,
#: quotas and whatever waits for runs to end are none of them: the caller decides what to do about those.
PASSING: Final = frozenset(
    {
        "DATABASE_BUSY",
        "RATE_LIMITED",
        "SIGNALS_AT_LIMIT",
        "TOO_MANY_IN_PROGRESS",
        "TOO_MANY_MODEL_CALLS",
        "TOO_MANY_TOOL_CALLS",
    }
)
#: Repeats of a call that met such a limit.
_MOST_WAITS: Final = 5
#: Pauses before repeats of a call that may have been done or not, seconds.
_PAUSES: Final = (0.1, 0.4, 1.0)
_MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024

Request = TypeVar("Request", contravariant=True)
Response = TypeVar("Response", covariant=True)


class Unary(Protocol[Request, Response]):
    """A unary RPC of a generated stub."""

    def __call__(self, request: Request, *, timeout: float | None, metadata: Any) -> Awaitable[Response]:
        """Starts the call."""
        ...


class Stream(Protocol[Response]):
    """A server stream in progress."""

    def __aiter__(self) -> AsyncIterator[Response]:
        """Gives its messages."""
        ...

    def initial_metadata(self) -> Awaitable[Any]:
        """Waits until the mesh has taken the call, or refused it."""
        ...

    def done(self) -> bool:
        """Tells whether it has ended."""
        ...

    def cancel(self) -> bool:
        """Ends it."""
        ...


class Streaming(Protocol[Request, Response]):
    """A server-streaming RPC of a generated stub."""

    def __call__(self, request: Request, *, timeout: float | None, metadata: Any) -> Stream[Response]:
        """Starts the call."""
        ...


class PagedRequest(Protocol):
    """A request for one page of a list."""

    page_token: str


class Page(Protocol):
    """One page of a list."""

    @property
    def next_page_token(self) -> str:
        """What fetches the next page; empty on the last one."""
        ...


Asked = TypeVar("Asked")
OnePage = TypeVar("OnePage", bound=Page)
PageRequest = TypeVar("PageRequest", bound=PagedRequest)


class Connection:
    """A channel to the edge with the caller's identity.

    Args:
        url: `http://host:port` or `https://host:port`.
        credentials: where access tokens come from.
    Raises: InvalidRequest: the address is none.
    """

    def __init__(self, url: str, credentials: Credentials) -> None:
        target, secure = _target(url)
        options = [
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.max_reconnect_backoff_ms", 2_000),
            # A proxy of the company is no way to this machine.
            ("grpc.enable_http_proxy", 0 if is_this_machine(url) else 1),
        ]
        if secure:
            self.channel = grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(), options=options)
        else:
            self.channel = grpc.aio.insecure_channel(target, options=options)
        self.url = url
        self._credentials = credentials
        self._exchange = Doors(self)
        self._token = Token("", 0.0)
        #: A token that the mesh refused.
        self._refused = ""
        self._renewing = asyncio.Lock()

    async def close(self) -> None:
        """Closes the channel. Closing it again changes nothing."""
        await self.channel.close()

    async def access_token(self) -> str:
        """Gives a token that works for another minute at least. Raises: Unauthenticated."""
        async with self._renewing:
            if self._token.text == self._refused or time.time() >= self._token.expires - MARGIN:
                self._token = await self._credentials.token(self._exchange, refused=self._refused)
            return self._token.text

    async def call(
        self, rpc: Unary[Request, Response], request: Request, *, timeout: float = DEFAULT_TIMEOUT
    ) -> Response:
        """Makes a unary call. Raises: ComitiaError.

        What was refused at the door has not begun, so it is made again: once with a new token, and some times after the
        short wait that a rate limit, or a mesh that is busy for a moment, names. Whatever changes something carries an
        id, so that it is also repeated when nobody knows whether it was done: the mesh does it once, and gives a repeat
        the first answer; while that is being made the repeat waits for it. Repeats and the waits before them take of
        the same `timeout`.
        """
        request, repeatable = _named(request)
        pauses = list(_PAUSES) if repeatable else []
        renewed, waits = False, 0
        token = await self.access_token()
        ends = time.monotonic() + timeout
        while True:
            try:
                return await rpc(request, timeout=ends - time.monotonic(), metadata=_bearer(token))
            except grpc.aio.AioRpcError as error:
                left = ends - time.monotonic()
                if not renewed and self._renewable(error, token):
                    renewed = True
                elif waits < _MOST_WAITS and await _waited(error, left, times=waits + 1):
                    waits += 1
                elif repeatable and await _still_made(error, left):
                    pass
                elif not (pauses and await _paused(error, pauses.pop(0), left)):
                    raise self._explained(error) from error
            token = await self.access_token()

    async def call_open(
        self,
        rpc: Unary[Request, Response],
        request: Request,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        bearer: str = "",
    ) -> Response:
        """Makes a unary call once, without the identity of this connection: with none, or that of `bearer`.

        Raises: ComitiaError.
        """
        try:
            return await rpc(request, timeout=timeout, metadata=_bearer(bearer) if bearer else None)
        except grpc.aio.AioRpcError as error:
            raise self._explained(error) from error

    async def pages(self, rpc: Unary[PageRequest, OnePage], request: PageRequest) -> AsyncGenerator[OnePage]:
        """Fetches the pages of a list, one by one. Raises: ComitiaError."""
        while True:
            page = await self.call(rpc, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def stream(
        self,
        rpc: Streaming[Request, Response],
        request: Request,
        *,
        timeout: float | None = None,
        opened: Callable[[], None] | None = None,
    ) -> AsyncGenerator[Response]:
        """Makes a streaming call and gives its messages; leaving it ends the call.

        Args:
            request: the one, or what gives them, each time from the first.
            opened: called when the mesh has taken the call.
        Raises: ComitiaError.
        """
        for last in (False, True):
            token = await self.access_token()
            call = rpc(request, timeout=timeout, metadata=_bearer(token))
            begun = False
            try:
                if opened is not None:
                    await call.initial_metadata()
                    if not call.done():
                        opened()
                async for message in call:
                    begun = True
                    yield message
            except grpc.aio.AioRpcError as error:
                if last or begun or not (self._renewable(error, token) or await _waited(error, timeout)):
                    raise self._explained(error) from error
            else:
                return
            finally:
                call.cancel()

    def _renewable(self, error: grpc.aio.AioRpcError, token: str) -> bool:
        """Tells whether a call may go through with a new token, and sees to it that one is fetched.

        A token can stop working early: this machine's clock is behind, or the mesh has other keys than before.
        """
        if error.code() is not grpc.StatusCode.UNAUTHENTICATED or not self._credentials.renewable:
            return False
        self._refused = token
        return True

    def _explained(self, error: grpc.aio.AioRpcError) -> ComitiaError:
        """Reads a failure; one without a reason of the mesh's own never reached it."""
        found = from_rpc_error(error)
        if isinstance(found, MeshUnavailable) and found.reason == grpc.StatusCode.UNAVAILABLE.name:
            metadata = {"url": self.url, "cause": found.message}
            return MeshUnavailable(
                f"the mesh at {self.url} does not answer", reason="MESH_UNREACHABLE", metadata=metadata
            )
        return found


class Doors:
    """Implements `credentials.Exchange` over a connection."""

    def __init__(self, connection: Connection, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._connection = connection
        self._timeout = timeout
        self._identity = identity_service_pb2_grpc.IdentityServiceStub(connection.channel)
        self._users = user_service_pb2_grpc.UserServiceStub(connection.channel)

    async def for_api_key(self, api_key: str) -> Token:
        """See `Exchange.for_api_key`."""
        request = identity_service_pb2.ExchangeApiKeyRequest(api_key=api_key)
        answer = await self._connection.call_open(self._identity.ExchangeApiKey, request, timeout=self._timeout)
        return Token(answer.access_token, answer.expire_time.seconds)

    async def for_id_token(self, tenant: str, id_token: str) -> Token:
        """See `Exchange.for_id_token`."""
        request = user_service_pb2.ExchangeOidcTokenRequest(tenant=tenant, id_token=id_token)
        answer = await self._connection.call_open(self._users.ExchangeOidcToken, request, timeout=self._timeout)
        return Token(answer.access_token, answer.expire_time.seconds)


def _named(request: Asked) -> tuple[Asked, bool]:
    """Gives a request with an id, where it takes one and has none, and whether a repeat of it is harmless.

    A call that says by `context` which call it is has its name there.
    """
    if not isinstance(request, Message) or "request_id" not in request.DESCRIPTOR.fields_by_name:
        return request, False
    if "context" in request.DESCRIPTOR.fields_by_name and request.HasField("context"):
        return request, False
    # The caller may send its own message again, and then mean another call.
    named: Any = type(request)()
    named.CopyFrom(request)
    named.request_id = named.request_id or str(uuid4())
    return named, True


async def _paused(error: grpc.aio.AioRpcError, seconds: float, left: float) -> bool:
    """Waits before a repeat, where it is not known whether the call was done, or it is still at work."""
    if error.code() is grpc.StatusCode.ABORTED:
        found = from_rpc_error(error)
        if found.reason != "REQUEST_IN_PROGRESS":
            return False
        seconds = max(seconds, found.retry_after.total_seconds() if found.retry_after else 0.0)
    elif error.code() is not grpc.StatusCode.UNAVAILABLE and not broke_off(error):
        return False
    return await _slept(seconds * random.uniform(0.5, 1.0), left)


async def _still_made(error: grpc.aio.AioRpcError, left: float) -> bool:
    """Waits while another process makes the call of a model, or is not known to be dead: the repeat gets its answer."""
    if error.code() is not grpc.StatusCode.ABORTED:
        return False
    found = from_rpc_error(error)
    if found.reason != "CALL_IN_PROGRESS" or found.retry_after is None:
        return False
    return await _slept(found.retry_after.total_seconds() * random.uniform(1.0, 1.5), left)


async def _waited(error: grpc.aio.AioRpcError, left: float | None, *, times: int = 1) -> bool:
    """Waits out a limit that soon lets a call through; False for any other failure.

    Args:
        times: how long, in waits that the refusal names.
    """
    if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
        return False
    found = from_rpc_error(error)
    if found.reason not in PASSING or found.retry_after is None:
        return False
    # Many who were refused together do not come back together.
    seconds = found.retry_after.total_seconds() * random.uniform(1.0, 1.5)
    return seconds <= _SHORT_WAIT and await _slept(seconds * times, left)


async def _slept(seconds: float, left: float | None) -> bool:
    """Sleeps, unless the time that is left does not allow it."""
    if left is not None and seconds >= left:
        return False
    await asyncio.sleep(seconds)
    return True


def is_this_machine(url: str) -> bool:
    """Tells whether an address can only mean this machine."""
    try:
        host = _parts(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _target(url: str) -> tuple[str, bool]:
    """Gives `host:port` and whether TLS is spoken. Raises: InvalidRequest."""
    sentence = f"{url!r} is no address of a mesh; it looks like http://127.0.0.1:7400"
    try:
        parts = _parts(url)
        port = parts.port
    except ValueError as error:
        raise InvalidRequest(sentence, reason="INVALID_FIELD", field="url") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or " " in parts.hostname:
        raise InvalidRequest(sentence, reason="INVALID_FIELD", field="url")
    secure = parts.scheme == "https"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port or (443 if secure else 80)}", secure


def _parts(url: str) -> SplitResult:
    return urlsplit(url if "//" in url else f"http://{url}")


def _bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)
