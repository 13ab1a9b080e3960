"""Sessions and violations watched live and again from any point, by gRPC and by server-sent events."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from comitia.orchestrator.v1 import session_pb2
from comitia.orchestrator.v1.session_service_pb2 import WatchSessionResponse
from comitia_sdk.errors import InvalidRequest
from tests.e2e.conftest import Tenant, until

STORY = [
    "session_started",
    *("turn_started", "turn_completed") * 2,
    "round_scored",
    "session_ended",
]
TEXT = "Rivers meet in the wide sea. They argue about salt there! Then they rest until spring."


async def server_sent(tenant: Tenant, path: str) -> AsyncGenerator[dict[str, Any]]:
    """Gives the events of a stream as a browser or curl sees them."""
    rest = tenant.rest
    async with rest.session.get(rest.url + path, headers={"x-api-key": rest.key}) as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream"), await answer.text()
        async for line in answer.content:
            if line.strip():
                assert line.startswith(b"data:"), line
                yield json.loads(line.removeprefix(b"data:"))


async def sse_of(tenant: Tenant, session_id: str, after: int) -> AsyncGenerator[WatchSessionResponse]:
    async for event in server_sent(tenant, f"/v1/sessions/{session_id}:watch?after_sequence={after}"):
        yield ParseDict(event, WatchSessionResponse())


async def by_sse(tenant: Tenant, session_id: str, *, after: int = 0) -> list[WatchSessionResponse]:
    async with asyncio.timeout(20):
        return [event async for event in sse_of(tenant, session_id, after)]


def grpc_of(tenant: Tenant, session_id: str, after: int) -> AsyncIterator[WatchSessionResponse]:
    return tenant.client.sessions.watch(session_id, after_sequence=after)


async def by_grpc(tenant: Tenant, session_id: str, *, after: int = 0) -> list[WatchSessionResponse]:
    async with asyncio.timeout(20):
        return [event async for event in grpc_of(tenant, session_id, after)]


def kinds(events: list[WatchSessionResponse]) -> list[str | None]:
    return [event.WhichOneof("event") for event in events]


def recorded(events: list[WatchSessionResponse]) -> list[WatchSessionResponse]:
    return [event for event in events if event.WhichOneof("event") != "text_delta"]


@pytest.mark.parametrize("watch", [grpc_of, sse_of])
async def test_a_session_is_watched_live_with_its_text(tenant: Tenant, watch: Any) -> None:
    await tenant.cast("Ada", "Bob")
    # Nobody has anything to hear yet: the first answer waits until the watch has begun.
    tenant.says(TEXT, held=tenant.mark, pause=0.03)
    tenant.says(TEXT, pause=0.03)
    session_id = (await tenant.start("Ada", "Bob", max_rounds=1)).session_id

    events: list[WatchSessionResponse] = []
    async with asyncio.timeout(20):
        async for event in watch(tenant, session_id, 0):
            events.append(event)
            if len(events) == 1:
                tenant.provider.release(tenant.mark)

    assert kinds(recorded(events)) == STORY
    sequences = [event.sequence for event in recorded(events)]
    assert sequences == sorted(set(sequences))
    for name in ("Ada", "Bob"):
        deltas = [event.text_delta for event in events if event.text_delta.path == f"rounds/1/{name}"]
        assert "".join(delta.text for delta in deltas) == TEXT
        assert len(deltas) > 1
    at = kinds(events)
    assert at.index("turn_started") < at.index("text_delta") < at.index("turn_completed")
    assert events[-1].session_ended.state == session_pb2.SESSION_STATE_SUCCEEDED


async def test_a_watch_is_resumed_at_any_point_by_grpc_and_by_sse(tenant: Tenant) -> None:
    await tenant.cast("Ada", "Bob")
    session_id = (await tenant.start("Ada", "Bob", max_rounds=1)).session_id
    await tenant.ended(session_id)
    whole = await by_grpc(tenant, session_id)
    assert kinds(whole) == STORY
    assert await by_sse(tenant, session_id) == whole
    for place, event in enumerate(whole, start=1):
        assert await by_grpc(tenant, session_id, after=event.sequence) == whole[place:]
        assert await by_sse(tenant, session_id, after=event.sequence) == whole[place:]


async def test_a_watch_that_breaks_in_the_middle_loses_nothing(tenant: Tenant) -> None:
    await tenant.cast("Ada")
    session_id = (await tenant.start("Ada", max_rounds=2, manual_advance=True)).session_id
    seen: list[dict[str, Any]] = []
    async with asyncio.timeout(20):
        async for event in server_sent(tenant, f"/v1/sessions/{session_id}:watch"):
            if event.get("text_delta") is None:
                seen.append(event)
            if event.get("state_changed") is not None:
                break
    await tenant.client.sessions.advance(session_id)
    rest = await by_sse(tenant, session_id, after=int(seen[-1]["sequence"]))
    first = [ParseDict(event, WatchSessionResponse()) for event in seen]
    assert first + recorded(rest) == await by_grpc(tenant, session_id)


async def test_a_watch_after_a_negative_sequence_is_refused(tenant: Tenant) -> None:
    await tenant.cast("Ada")
    session_id = (await tenant.start("Ada", max_rounds=1)).session_id
    with pytest.raises(InvalidRequest) as refused:
        await by_grpc(tenant, session_id, after=-1)
    assert refused.value.field == "after_sequence"
    answer = await tenant.rest.ask("GET", f"/v1/sessions/{session_id}:watch?after_sequence=-1")
    assert (answer.status, answer.reason, answer.field) == (400, "INVALID_FIELD", "after_sequence")
    assert int({name.lower(): value for name, value in answer.headers.items()}["x-ratelimit-limit"]) > 0


async def test_two_watch_one_session_and_one_of_them_leaves(tenant: Tenant) -> None:
    await tenant.cast("Ada")
    tenant.says(TEXT, wait=0.3)
    session_id = (await tenant.start("Ada", max_rounds=1)).session_id

    async def leave() -> str | None:
        async for event in tenant.client.sessions.watch(session_id):
            return event.WhichOneof("event")
        return None

    async with asyncio.TaskGroup() as tasks:
        staying = tasks.create_task(by_grpc(tenant, session_id))
        leaving = tasks.create_task(leave())
    assert leaving.result() == "session_started"
    assert kinds(staying.result())[-1] == "session_ended"


async def test_violations_are_watched_live_and_again(tenant: Tenant) -> None:
    await tenant.client.policies.apply(
        "rules: [{name: no_swords, type: keyword, keywords: [sword], action: warn}]", name="arms", version="1.0.0"
    )
    await tenant.cast("Ada")

    async def watched(path: str, most: int) -> list[int]:
        found: list[int] = []
        async with asyncio.timeout(20):
            async for event in server_sent(tenant, path):
                assert event["violation"]["rule"] == "no_swords"
                found.append(int(event["sequence"]))
                if len(found) == most:
                    return found
        return found

    async def of_the_run(run_id: str) -> bool:
        return bool([one async for one in tenant.client.policies.violations(run_id=run_id)])

    async with asyncio.TaskGroup() as tasks:
        live = tasks.create_task(watched("/v1/violations:watch", 1))
        tenant.says("A sword!")
        session_id = (await tenant.start("Ada", max_rounds=1)).session_id
        await tenant.ended(session_id)
    await until(lambda: of_the_run(session_id))
    [first] = live.result()
    listed = [one.sequence async for one in tenant.client.policies.violations()]
    assert listed == sorted(listed, reverse=True)
    assert await watched("/v1/violations:watch", len(listed)) == listed[::-1]
    if len(listed) > 1:
        later = await watched(f"/v1/violations:watch?after_sequence={first}", len(listed) - 1)
        assert later == listed[::-1][1:]


async def watched_session(tenant: Tenant) -> str:
    """Gives the path of a watch of a session that waits for somebody, after all that has happened."""
    await tenant.cast("Ada", "Bob")
    tenant.says(TEXT, TEXT)
    session = await tenant.start("Ada", "Bob", max_rounds=2, manual_advance=True)
    waiting = await tenant.until_state(session.session_id, session_pb2.SESSION_STATE_WAITING)
    return f"/v1/sessions/{waiting.session_id}:watch?after_sequence=1000"


async def watched_violations(_: Tenant) -> str:
    """Gives the path of a watch of a tenant that broke no law."""
    return "/v1/violations:watch"


@pytest.mark.parametrize("path_of", [watched_session, watched_violations])
async def test_a_watch_of_what_is_quiet_answers_its_headers_before_any_event(tenant: Tenant, path_of: Any) -> None:
    rest, path = tenant.rest, await path_of(tenant)

    async with asyncio.timeout(5), rest.session.get(rest.url + path, headers={"x-api-key": rest.key}) as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        assert int(answer.headers["x-ratelimit-limit"]) > int(answer.headers["x-ratelimit-reset"]) >= 0
        assert "x-ratelimit-remaining" in answer.headers
        # And nothing else was there to be heard.
        assert answer.content.total_bytes == 0


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/v1/sessions/run_01kaj8gqsaf4nvvn5v8c4n5yzc:watch", 404, "SESSION_NOT_FOUND"),
        ("/v1/violations:watch?run_id=nonsense", 400, "INVALID_FIELD"),
    ],
)
async def test_a_watch_that_is_refused_says_so_by_its_status(
    tenant: Tenant, path: str, status: int, reason: str
) -> None:
    refused = await tenant.rest.ask("GET", path)
    assert (refused.status, refused.reason) == (status, reason)
