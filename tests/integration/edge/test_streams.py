"""Server streams as server-sent events and as gRPC, through a real Envoy."""

import asyncio
import json
from typing import Any

import aiohttp
import grpc.aio
import pytest

from comitia.orchestrator.v1 import session_service_pb2 as pb
from comitia.orchestrator.v1.session_service_pb2_grpc import SessionServiceStub
from tests.integration.edge.conftest import Outside, reason_of

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def next_event(answer: aiohttp.ClientResponse) -> dict[str, object]:
    """Reads one server-sent event."""
    async with asyncio.timeout(5):
        line = b""
        while not line.strip():
            line = await answer.content.readline()
    assert line.startswith(b"data:"), line
    event: dict[str, object] = json.loads(line.removeprefix(b"data:"))
    return event


async def test_an_event_reaches_the_caller_before_the_next_one_exists(outside: Outside) -> None:
    url = outside.edge.url + "/v1/sessions/run_flush:watch"
    async with outside.http.get(url, headers=outside.bearer) as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        first = await next_event(answer)
        outside.sessions.gate("run_flush").set()
        rest = [await next_event(answer), await next_event(answer)]
    assert first["text_delta"] == {"path": "", "text": "piece 1", "restart": False}
    assert [event["sequence"] for event in (first, *rest)] == ["1", "2", "3"]


async def test_a_stream_resumes_after_a_sequence(outside: Outside) -> None:
    url = outside.edge.url + "/v1/sessions/run_resume:watch?after_sequence=2"
    async with outside.http.get(url, headers=outside.bearer) as answer:
        assert (await next_event(answer))["sequence"] == "3"
        assert (await answer.content.read()).strip() == b""


async def test_a_stream_that_cannot_begin_is_an_error_with_its_status(outside: Outside) -> None:
    status, body = await outside.rest("GET", "/v1/sessions/none:watch")
    assert (status, reason_of(body)) == (404, "NOT_FOUND")


async def test_a_caller_that_leaves_ends_the_call_behind_the_edge(outside: Outside) -> None:
    before = len(asyncio.all_tasks())
    answer = await outside.http.get(outside.edge.url + "/v1/sessions/run_left:watch", headers=outside.bearer)
    await next_event(answer)
    answer.close()
    async with asyncio.timeout(5):
        while len(asyncio.all_tasks()) > before:  # noqa: ASYNC110  # another process cannot set an event
            await asyncio.sleep(0.05)


async def test_grpc_streams_pass_at_once(outside: Outside) -> None:
    async with grpc.aio.insecure_channel(outside.edge.address) as channel:
        call: Any = SessionServiceStub(channel).WatchSession(
            pb.WatchSessionRequest(session_id="run_grpc"), metadata=(("authorization", f"Bearer {outside.token}"),)
        )
        async with asyncio.timeout(5):
            first = await call.read()
            outside.sessions.gate("run_grpc").set()
            rest = [await call.read(), await call.read(), await call.read()]
    assert [first.sequence, rest[0].sequence, rest[1].sequence] == [1, 2, 3]
    assert not rest[2]
