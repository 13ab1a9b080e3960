"""Calls of ASGI applications, with a server and without, and the doors of a mesh that know a few callers."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from comitia_sdk.asgi.interface import App, Message, Scope
from comitia_sdk.credentials import Token
from comitia_sdk.errors import ComitiaError, MeshUnavailable, Unauthenticated
from services.meshkit.grpc.signed_token import SigningKey

TENANT = "01900000-0000-7000-8000-000000000001"
NOON = 1_750_000_000.0


@dataclass
class Clock:
    """Both clocks, in the hand of the test."""

    elapsed: float = 1000.0

    def now(self) -> float:
        return NOON + self.elapsed

    def monotonic(self) -> float:
        return self.elapsed


@dataclass
class FakeDoors:
    """Implements `IdentityDoors`: a mesh that signs tokens for its keys, can forget both, and can be away."""

    clock: Clock = field(default_factory=Clock)
    signing: SigningKey = field(default_factory=lambda: SigningKey.generate("access-1"))
    #: Published beside the signing key.
    also: list[SigningKey] = field(default_factory=list)
    #: Claims by API key.
    keys: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Tokens and keys that it does not take any more.
    revoked: set[str] = field(default_factory=set)
    #: Raised by every question while it stands.
    failure: ComitiaError | None = None
    key_set_fetches: int = 0
    exchanges: int = 0
    confirmations: int = 0
    closed: bool = False

    def token(self, **claims: Any) -> str:
        """Signs a token of 15 minutes."""
        now = int(self.clock.now())
        whole = {"iss": "comitia", "aud": "comitia", "sub": "key_1", "tenant": TENANT, "roles": ["tenant_user"]}
        return self.signing.sign({**whole, "iat": now, "exp": now + 900, "jti": f"{self.exchanges}", **claims})

    def leave(self) -> None:
        self.failure = MeshUnavailable("away", reason="MESH_UNREACHABLE")

    async def key_set(self) -> Mapping[str, Ed25519PublicKey]:
        self.key_set_fetches += 1
        await self._answering()
        return {key.kid: key.private.public_key() for key in (self.signing, *self.also)}

    async def for_api_key(self, api_key: str) -> Token:
        self.exchanges += 1
        await self._answering()
        if api_key not in self.keys or api_key in self.revoked:
            raise Unauthenticated("no", reason="API_KEY_INVALID")
        return Token(self.token(**self.keys[api_key]), self.clock.now() + 900)

    async def for_id_token(self, tenant: str, id_token: str) -> Token:
        self.exchanges += 1
        await self._answering()
        if id_token in self.revoked:
            raise Unauthenticated("no", reason="ID_TOKEN_INVALID")
        return Token(f"token-{self.exchanges}-of-{tenant}", 4e9)

    async def confirm(self, credential: str) -> None:
        self.confirmations += 1
        await self._answering()
        if credential in self.revoked:
            raise Unauthenticated("no", reason="TOKEN_REVOKED")

    async def aclose(self) -> None:
        self.closed = True

    async def _answering(self) -> None:
        # As across a network: others run meanwhile.
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure


@dataclass
class Answered:
    """What an application sent."""

    sent: list[Message] = field(default_factory=list)

    @property
    def status(self) -> int:
        return next((m["status"] for m in self.sent if m["type"].endswith(".start")), 0)

    @property
    def headers(self) -> dict[str, str]:
        start = next(m for m in self.sent if m["type"].endswith(".start"))
        return {name.decode(): value.decode() for name, value in start["headers"]}

    @property
    def body(self) -> Any:
        return json.loads(b"".join(m.get("body", b"") for m in self.sent if m["type"].endswith(".body")))

    @property
    def reason(self) -> str:
        return self.body["details"][0]["reason"]


def http(
    path: str = "/", method: str = "GET", headers: Iterable[tuple[str, str]] = (), *, root: str = "", **more: Any
) -> Scope:
    """Makes the scope of a request."""
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return {
        "type": "http",
        "method": method,
        "path": path,
        "root_path": root,
        "headers": raw,
        "query_string": b"",
        **more,
    }


def websocket(headers: Iterable[tuple[str, str]] = (), **more: Any) -> Scope:
    """Makes the scope of a WebSocket."""
    return {**http("/", headers=headers), "type": "websocket", **more}


def bearer(token: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}")]


async def called(app: App, scope: Scope, messages: Sequence[Message] | None = None) -> Answered:
    """Calls an application; after these messages the caller stays, and says nothing more."""
    first = {"type": "websocket.connect"} if scope["type"] == "websocket" else {"type": "http.request"}
    waiting = list([first] if messages is None else messages)
    answered = Answered()

    async def receive() -> Message:
        if waiting:
            return waiting.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        answered.sent.append(message)

    await app(scope, receive, send)
    return answered


@asynccontextmanager
async def served(app: App) -> AsyncGenerator[str]:
    """Serves an application on a free port; gives its address."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        config = uvicorn.Config(app, http="h11", ws="none", log_level="critical", timeout_graceful_shutdown=2)
        server = uvicorn.Server(config)
        serving = asyncio.ensure_future(server.serve(sockets=[listening]))
        try:
            # Who connects before it has started waits in the queue of the socket.
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            # It also stops if it is told so before it has started.
            server.should_exit = True
            await serving
