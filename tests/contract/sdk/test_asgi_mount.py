"""What the mount does with requests and answers, before an HTTP server that stands for the edge of a mesh."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from comitia_sdk.asgi import ComitiaMount, IdToken, Principal, Secret
from comitia_sdk.asgi.interface import Message, Scope
from comitia_sdk.errors import MeshUnavailable
from tests.support.asgi import FakeDoors, called, http, served, websocket

TOKEN = "abc.def.ghi"
_SECONDS = 10.0


class Edge:
    """Answers by path, and keeps what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        self.begun, self.go_on, self.cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.received = 0
        self.sent = 0
        self.refuse_all = False

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        if request.path == "/v1/upload":
            async for chunk in request.content.iter_any():
                self.received += len(chunk)
                self.begun.set()
            return web.json_response({"received": self.received})
        self.asked.append((f"{request.method} {request.path_qs}", headers, await request.read()))
        if self.refuse_all:
            return web.json_response({"code": 16}, status=401)
        if request.path == "/v1/watch":
            return await self._watch(request)
        own = {"x-request-id": "r1", "set-cookie": "a=b", "access-control-allow-origin": "*", "location": "/x"}
        return web.json_response({"ok": True}, headers={**own, "x-ratelimit-limit": "5", "server": "envoy"})

    async def _watch(self, request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        try:
            await answer.write(b"data: 1\n\n")
            self.begun.set()
            if "endless" in request.query:
                while True:
                    await answer.write(b"x" * 65536)
                    self.sent += 65536
            await self.go_on.wait()
            if "break" in request.query:
                assert request.transport is not None
                request.transport.abort()
            await answer.write(b"data: 2\n\n")
        except (asyncio.CancelledError, ConnectionError):
            self.cancelled.set()
            raise
        return answer


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    edge = Edge()
    runner = web.ServerRunner(web.Server(edge, handler_cancellation=True), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    edge.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield edge
    await runner.cleanup()


@pytest.fixture
async def mount(edge: Edge) -> AsyncIterator[ComitiaMount]:
    mounted = ComitiaMount(lambda _scope: TOKEN, url=edge.url, max_body_bytes=1_000_000)
    async with mounted.lifespan(None):
        yield mounted


async def test_a_request_goes_on_as_whom_the_application_says(mount: ComitiaMount, edge: Edge) -> None:
    sent = [("authorization", "Bearer evil"), ("x-forwarded-for", "6.6.6.6"), ("content-type", "application/json")]
    scope = http("/ai/v1/agents", "POST", sent, root="/ai", query_string=b"page_size=2")
    answered = await called(mount, scope, [{"type": "http.request", "body": b'{"a": 1}'}])

    assert (answered.status, answered.body) == (200, {"ok": True})
    [(asked, headers, body)] = edge.asked
    assert (asked, body) == ("POST /v1/agents?page_size=2", b'{"a": 1}')
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert "6.6.6.6" not in str(headers)
    assert set(answered.headers) == {"content-type", "content-length", "x-request-id", "x-ratelimit-limit"}


@pytest.mark.parametrize(
    "said",
    [None, "", "a b", "a\r\nx-api-key: ck_x", "Bearer x", "é", "x" * 9000, Secret("")],
    ids=["nobody", "nothing", "space", "lines", "scheme", "letter", "long", "empty secret"],
)
async def test_without_a_credential_nobody_reaches_the_mesh(edge: Edge, said: Any) -> None:
    answered = await called(ComitiaMount(lambda _scope: said, url=edge.url), http("/v1/agents"))
    assert answered.status == 401
    assert not edge.asked


async def test_the_credential_may_be_asked_for_and_be_a_secret(edge: Edge) -> None:
    async def credentials(scope: Scope) -> Secret:
        return Secret(scope["key"])

    mount = ComitiaMount(credentials, url=edge.url)
    assert (await called(mount, http("/v1/agents", key="ck_1"))).status == 200
    assert edge.asked[0][1]["authorization"] == "Bearer ck_1"
    await mount.aclose()


async def test_by_default_it_is_the_caller_whom_the_middleware_let_in(edge: Edge) -> None:
    mount = ComitiaMount(url=edge.url)
    none: dict[str, Any] = {"project": None, "scopes": None, "run_id": None, "email": None}
    caller = Principal(tenant="tenant_1", subject="key_1", roles=frozenset(), expires=0, token=Secret(TOKEN), **none)
    assert (await called(mount, http("/v1/agents", comitia=caller))).status == 200
    assert edge.asked[0][1]["authorization"] == f"Bearer {TOKEN}"
    for other in (None, TOKEN, {"token": TOKEN}):
        assert (await called(mount, http("/v1/agents", comitia=other))).status == 401
    await mount.aclose()


async def test_an_id_token_is_exchanged_once_and_again_when_the_mesh_refuses_what_it_gave(edge: Edge) -> None:
    doors = FakeDoors()
    mount = ComitiaMount(lambda _scope: IdToken("acme", "id-token"), url=edge.url, exchange=doors)
    assert "id-token" not in repr(IdToken("acme", "id-token"))
    await asyncio.gather(*(called(mount, http("/v1/agents")) for _ in range(10)))
    assert doors.exchanges == 1
    assert edge.asked[0][1]["authorization"] == "Bearer token-1-of-acme"
    edge.refuse_all = True
    assert (await called(mount, http("/v1/agents"))).status == 401
    edge.refuse_all = False
    assert (await called(mount, http("/v1/agents"))).status == 200
    assert doors.exchanges == 2
    await mount.aclose()


async def test_a_refused_id_token_is_401_and_one_that_cannot_be_exchanged_503(edge: Edge) -> None:
    doors = FakeDoors(revoked={"id-token"})
    mount = ComitiaMount(lambda _scope: IdToken("acme", "id-token"), url=edge.url, exchange=doors)
    assert (await called(mount, http("/v1/agents"))).status == 401
    doors.leave()
    assert (await called(mount, http("/v1/agents"))).status == 503
    assert not edge.asked
    await mount.aclose()


async def test_events_come_one_by_one_and_whoever_leaves_ends_the_stream_at_the_mesh(
    mount: ComitiaMount, edge: Edge
) -> None:
    sent: asyncio.Queue[Message] = asyncio.Queue()
    received: asyncio.Queue[Message] = asyncio.Queue()
    received.put_nowait({"type": "http.request"})
    call = asyncio.ensure_future(mount(http("/v1/watch"), received.get, sent.put))
    async with asyncio.timeout(_SECONDS):
        assert (await sent.get())["status"] == 200
        assert (await sent.get())["body"] == b"data: 1\n\n"
        received.put_nowait({"type": "http.disconnect"})
        await call
        await edge.cancelled.wait()


async def test_whoever_leaves_a_real_server_ends_the_stream_at_the_mesh(mount: ComitiaMount, edge: Edge) -> None:
    async with asyncio.timeout(_SECONDS), served(mount) as url, aiohttp.ClientSession() as session:
        async with session.get(f"{url}/v1/watch") as answer:
            assert await answer.content.readline() == b"data: 1\n"
            assert not edge.cancelled.is_set()
        await edge.cancelled.wait()


async def test_a_caller_who_reads_slowly_slows_the_mesh_down(mount: ComitiaMount, edge: Edge) -> None:
    stuck, received = asyncio.Event(), asyncio.Queue[Message]()
    received.put_nowait({"type": "http.request"})

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            stuck.set()
            await asyncio.Event().wait()

    call = asyncio.ensure_future(mount(http("/v1/watch", query_string=b"endless=1"), received.get, send))
    async with asyncio.timeout(_SECONDS):
        await stuck.wait()
        before = -1
        while before != edge.sent:  # until no buffer on the way takes any more
            before = edge.sent
            await asyncio.sleep(0.1)
    assert edge.sent < 50_000_000
    received.put_nowait({"type": "http.disconnect"})
    await call


async def test_a_mesh_that_breaks_off_in_an_answer_does_not_make_it_look_whole(mount: ComitiaMount, edge: Edge) -> None:
    edge.go_on.set()
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    received = asyncio.Queue[Message]()
    received.put_nowait({"type": "http.request"})
    with pytest.raises(MeshUnavailable, match="middle of an answer"):
        await mount(http("/v1/watch", query_string=b"break=1"), received.get, send)
    assert all(message.get("more_body", True) for message in sent)


async def test_a_body_streams_and_is_bounded(mount: ComitiaMount, edge: Edge) -> None:
    received = asyncio.Queue[Message]()
    received.put_nowait({"type": "http.request", "body": b"x" * 1000, "more_body": True})
    sent: asyncio.Queue[Message] = asyncio.Queue()
    call = asyncio.ensure_future(mount(http("/v1/upload", "POST"), received.get, sent.put))
    async with asyncio.timeout(_SECONDS):
        await edge.begun.wait()
        assert not call.done(), "the mesh has the first part, and the caller still speaks"
        received.put_nowait({"type": "http.request", "body": b"x" * 999_000, "more_body": False})
        await call
    assert edge.received == 1_000_000

    declared = http("/v1/upload", "POST", [("content-length", "1000001")])
    answered = await called(mount, declared, [])
    assert (answered.status, answered.reason) == (413, "REQUEST_TOO_LARGE")
    for parts in ([1_000_001], [600_000, 600_000, 1]):
        messages = [{"type": "http.request", "body": b"x" * part, "more_body": True} for part in parts]
        answered = await called(mount, http("/v1/upload", "POST"), messages)
        assert (answered.status, answered.reason) == (413, "REQUEST_TOO_LARGE")


async def test_whoever_leaves_while_speaking_is_answered_nothing(mount: ComitiaMount, edge: Edge) -> None:
    messages = [{"type": "http.request", "body": b"x", "more_body": True}, {"type": "http.disconnect"}]
    assert (await called(mount, http("/v1/upload", "POST"), messages)).sent == []
    assert (await called(mount, http("/v1/agents"), [{"type": "http.disconnect"}])).sent == []


@pytest.mark.parametrize("length", ["-1", "1e3", "+5", "x", "9" * 19])
async def test_a_length_that_is_none_is_refused(mount: ComitiaMount, edge: Edge, length: str) -> None:
    assert (await called(mount, http("/v1/agents", "POST", [("content-length", length)]), [])).status == 413
    assert not edge.asked


async def test_a_mesh_that_is_away_is_503_with_a_sentence(edge: Edge) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        mount = ComitiaMount(lambda _scope: TOKEN, url=f"http://127.0.0.1:{nobody.getsockname()[1]}")
        answered = await called(mount, http("/v1/agents"))
    assert (answered.status, answered.reason) == (503, "MESH_UNREACHABLE")
    assert answered.headers["retry-after"] == "1"
    await mount.aclose()


async def test_there_is_no_websocket_and_a_lifespan_leaves_the_mesh(mount: ComitiaMount) -> None:
    refused = await called(mount, websocket(extensions={"websocket.http.response": {}}))
    assert refused.status == 404
    assert (await called(mount, websocket())).sent[0]["type"] == "websocket.close"
    await called(mount, http("/v1/agents"))
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    answered = await called(mount, {"type": "lifespan"}, messages)
    assert [message["type"] for message in answered.sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    with pytest.raises(ValueError, match="no kind of call"):
        await called(mount, {"type": "ftp"}, [])
