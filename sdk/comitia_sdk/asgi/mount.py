"""The API of the mesh under a path of an application, for the callers whom the application knows."""

import inspect
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from google.rpc import code_pb2

from comitia_sdk.asgi.doors import MeshDoors
from comitia_sdk.asgi.interface import Receive, Scope, Send
from comitia_sdk.asgi.memory import Answer, Memory
from comitia_sdk.asgi.principal import KEY, Principal
from comitia_sdk.asgi.refusal import INVALID, MISSING, Refusal, Refused, refusal_of, refuse
from comitia_sdk.asgi.request import check_site, place_of
from comitia_sdk.asgi.signed_token import MAX_TOKEN_CHARACTERS
from comitia_sdk.context import find_context
from comitia_sdk.credentials import MARGIN, Exchange
from comitia_sdk.errors import ComitiaError
from comitia_sdk.secret import Secret

if TYPE_CHECKING:
    import aiohttp

#: What the edge takes, too.
_MOST_BYTES: Final = 4 * 1024 * 1024
_MOST_AT_ONCE: Final = 1000
_REMEMBERED: Final = 4096
_CREDENTIAL: Final = re.compile(r"[A-Za-z0-9_.\-]+", re.ASCII)
_NO_WEBSOCKET: Final = Refusal(
    status=404,
    code=code_pb2.UNIMPLEMENTED,
    reason="NO_SUCH_METHOD",
    message="the mesh speaks no WebSocket; its streams are server-sent events",
)


@dataclass(frozen=True, slots=True)
class IdToken:
    """The ID token that a provider gave the application for a person of a tenant."""

    tenant: str
    text: str = field(repr=False)


#: A token or API key of Comitia, a person's ID token, or nobody.
Credential = str | Secret | IdToken | None


def of_principal(scope: Scope) -> Credential:
    """Gives the token of the caller whom `ComitiaAuth` let in."""
    principal = scope.get(KEY)
    return principal.token if isinstance(principal, Principal) else None


class ComitiaMount:
    """ASGI application: passes `/v1/…` on to the mesh, with the identity that the application says.

        mesh = ComitiaMount(lambda scope: scope["session"].get("comitia_key"))
        app = FastAPI(lifespan=mesh.lifespan)
        app.mount("/ai", mesh)

    So the application's rules and those of the mesh hold both. What a caller sends to prove or pretend who they are
    does not reach the mesh. Needs `pip install comitia[asgi]`.

    Args:
        credentials: says for a request with which credential the mesh is asked; may be a coroutine function. None is
            answered 401. Default: the caller whom `ComitiaAuth` let in.
        url: of the mesh. Default: `COMITIA_URL`, else the mesh on this machine.
        origins: such as `https://app.example.com`, from which pages may change something; those of other sites than
            the application's own may not.
        max_body_bytes: of a request.
        max_requests: that are with the mesh at one time, watched streams included.
        exchange: where ID tokens are exchanged in place of the mesh at `url`, for tests.
    """

    def __init__(
        self,
        credentials: Callable[[Scope], Credential | Awaitable[Credential]] = of_principal,
        *,
        url: str = "",
        origins: Collection[str] = (),
        max_body_bytes: int = _MOST_BYTES,
        max_requests: int = _MOST_AT_ONCE,
        exchange: Exchange | None = None,
    ) -> None:
        try:
            from comitia_sdk.asgi import relay
        except ImportError as error:
            raise ImportError("ComitiaMount needs aiohttp: pip install 'comitia[asgi]'") from error
        self._relay = relay
        self._credentials = credentials
        found = find_context(url=url).url.rstrip("/")
        self._url = found if "//" in found else f"http://{found}"
        self._origins = frozenset(origins)
        self._most_bytes = max_body_bytes
        self._most_at_once = max_requests
        self._doors = MeshDoors(self._url)
        self._exchange: Exchange = exchange or self._doors
        self._exchanged: Memory[Secret] = Memory(_REMEMBERED, monotonic=time.monotonic)
        self._opened: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification. Raises: MeshUnavailable: the mesh broke off in the middle of an answer."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await refuse(_NO_WEBSOCKET, scope, receive, send)
        elif scope["type"] == "http":
            try:
                await self._pass_on(scope, receive, send)
            except Refused as refused:
                await refuse(refused.refusal, scope, receive, send)
        else:
            raise ValueError(f"{scope['type']!r} is no kind of call that the mesh answers")

    @asynccontextmanager
    async def lifespan(self, _app: object) -> AsyncGenerator[None]:
        """Leaves the mesh when the application stops; for `FastAPI(lifespan=…)`, or inside a lifespan of its own."""
        try:
            yield
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Leaves the mesh; another request opens the way again."""
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.close()
        await self._doors.aclose()

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        place = place_of(scope)
        check_site(scope, self._origins)
        said = self._credentials(scope)
        credential = await said if inspect.isawaitable(said) else said
        if not credential:
            raise Refused(MISSING)
        text = await self._text(credential)
        if self._opened is None:
            self._opened = self._relay.open_session(self._most_at_once)
        relay = self._relay.Relay(self._opened, f"{self._url}{place}", text, scope, most=self._most_bytes)
        try:
            await relay(receive, send)
        finally:
            if relay.status == 401 and isinstance(credential, IdToken):
                self._exchanged.forget(_digest(credential))

    async def _text(self, credential: str | Secret | IdToken) -> str:
        """Gives the token or key to send. Raises: Refused."""
        if isinstance(credential, IdToken):
            token = credential
            return (await self._exchanged.get(_digest(token), lambda _last: self._exchange_of(token))).reveal()
        text = credential.reveal() if isinstance(credential, Secret) else credential
        if len(text) > MAX_TOKEN_CHARACTERS or not _CREDENTIAL.fullmatch(text):
            raise Refused(INVALID)
        return text

    async def _exchange_of(self, token: IdToken) -> Answer[Secret]:
        try:
            found = await self._exchange.for_id_token(token.tenant, token.text)
        except ComitiaError as error:
            raise Refused(refusal_of(error)) from error
        return Answer(Secret(found.text), time.monotonic() + max(0.0, found.expires - MARGIN - time.time()))

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            kind = (await receive())["type"]
            if kind == "lifespan.shutdown":
                await self.aclose()
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return


def _digest(token: IdToken) -> bytes:
    return sha256(f"{token.tenant}\0{token.text}".encode()).digest()
