"""Lets callers of an application in by their Comitia tokens and API keys."""

import time
from collections.abc import Callable, Collection
from typing import Final

from comitia_sdk.asgi.doors import IdentityDoors, MeshDoors
from comitia_sdk.asgi.identities import Identities, presented
from comitia_sdk.asgi.interface import App, Message, Receive, Scope, Send, own_path
from comitia_sdk.asgi.principal import KEY, CallerUnknown, RoleMissing
from comitia_sdk.asgi.refusal import INVALID, MISSING, Refused, refusal_of, refuse

_SUBTREE: Final = "/*"
_SHUT_DOWN: Final = ("lifespan.shutdown.complete", "lifespan.shutdown.failed")
#: With one of these an answer has begun, and cannot be another one any more.
_BEGUN: Final = ("http.response.start", "websocket.accept", "websocket.close", "websocket.http.response.start")


class ComitiaAuth:
    """ASGI middleware: behind it every request has a caller, `scope["comitia"]`, a `Principal`.

    A caller sends one of `authorization: Bearer <token>`, `authorization: Bearer ck_…` and `x-api-key: ck_…`. All
    others are answered 401, and their WebSockets are not accepted. Tokens are verified here with the public keys of
    the mesh; whether they, and keys, were revoked meanwhile is asked of the mesh every 3 s.

    Args:
        app: what it stands before.
        url: of the mesh. Default: `COMITIA_URL`, else the mesh on this machine.
        tenants: callers of these tenants only, `tenant_…`. Empty for an application that serves all tenants of the
            mesh, which has to keep them apart itself.
        exempt: paths below this application that anybody may call, such as `/healthz`, or `/public/*` for all below.
        doors: who is asked in place of the mesh at `url`, for tests.
        now: Unix time, seconds.
        monotonic: clock for what is remembered, seconds.
    Raises: ValueError: that is no id of a tenant.
    """

    def __init__(
        self,
        app: App,
        *,
        url: str = "",
        tenants: Collection[str] = (),
        exempt: Collection[str] = (),
        doors: IdentityDoors | None = None,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        unknown = [tenant for tenant in tenants if not tenant.startswith("tenant_")]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no id of a tenant, `tenant_…`; `comitia whoami` shows yours")
        self._app = app
        self._tenants = frozenset(tenants)
        self._exempt = frozenset(path for path in exempt if not path.endswith(_SUBTREE))
        self._exempt_below = tuple(path.removesuffix("*") for path in exempt if path.endswith(_SUBTREE))
        self._doors = doors or MeshDoors(url)
        self._identities = Identities(self._doors, now=now, monotonic=monotonic)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._leaving(send))
        elif scope["type"] in ("http", "websocket"):
            await self._admit(scope, receive, send)
        else:
            raise ValueError(f"{scope['type']!r} is no kind of call that can be let in")

    async def aclose(self) -> None:
        """Leaves the mesh; done by itself where the server tells applications to shut down."""
        await self._doors.aclose()

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Nobody but this middleware says who calls.
        scope[KEY] = None
        if not self._is_exempt(own_path(scope)):
            try:
                principal = await self._identities.behind(presented(scope))
                if self._tenants and principal.tenant not in self._tenants:
                    raise Refused(INVALID)
            except Refused as refused:
                await refuse(refused.refusal, scope, receive, send)
                return
            scope[KEY] = principal
        await self._call(scope, receive, send)

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Calls the application; answers for it what `require` raised."""
        begun = connected = False

        async def watched_send(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] in _BEGUN
            await send(message)

        async def watched_receive() -> Message:
            nonlocal connected
            message = await receive()
            connected = connected or message["type"] == "websocket.connect"
            return message

        try:
            await self._app(scope, watched_receive, watched_send)
        except (CallerUnknown, RoleMissing) as error:
            if begun:
                raise
            refusal = MISSING if isinstance(error, CallerUnknown) else refusal_of(error)
            await refuse(refusal, scope, receive, send, connected=connected)

    def _is_exempt(self, path: str) -> bool:
        if path in self._exempt:
            return True
        # What a router or a proxy might read as another path is never exempt with a whole subtree.
        *folders, last = path.split("/")[1:]
        plain = "\\" not in path and last not in (".", "..") and not {"", ".", ".."} & set(folders)
        return plain and path.startswith(self._exempt_below)

    def _leaving(self, send: Send) -> Send:
        async def leaving(message: Message) -> None:
            if message["type"] in _SHUT_DOWN:
                await self.aclose()
            await send(message)

        return leaving
