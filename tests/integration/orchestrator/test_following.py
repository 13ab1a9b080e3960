"""Runs followed at any replica, with NATS and without: the journal tells, NATS only wakes."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final
from uuid import uuid4

import pytest

from comitia.orchestrator.v1 import run_pb2, run_service_pb2, session_service_pb2
from services.meshkit.core.identity import Role
from services.meshkit.grpc.channel import call_metadata
from tests.integration.conftest import NatsServer, RunNats, free_port
from tests.integration.orchestrator.conftest import House, Replica
from tests.integration.orchestrator.test_sessions import start
from tests.integration.orchestrator.test_workflows import agent, create

SUCCEEDED: Final = run_pb2.RUN_STATE_SUCCEEDED
TWO_AGENTS: Final = """
name: talk
version: 1.0.0
nodes:
  - {id: ask, agent: {agent: Ada, prompt: Ask.}}
  - {id: answer, agent: {agent: Ada, prompt: {cel: '"Answer this. " + nodes.ask.output'}}, depends_on: [ask]}
"""


async def talk(replica: Replica) -> str:
    """Starts a run of a workflow."""
    await agent(replica, "Ada")
    await create(replica, TWO_AGENTS)
    request = run_service_pb2.StartRunRequest(workflow="talk")
    return (await replica.runs.StartRun(request, metadata=replica.as_tenant())).run.run_id


async def watch(
    replica: Replica, run_id: str, *, after: int = 0, deltas: bool = False
) -> AsyncGenerator[run_service_pb2.WatchRunResponse]:
    """Watches a run until it has ended."""
    request = run_service_pb2.WatchRunRequest(run_id=run_id, after_sequence=after, include_deltas=deltas)
    async with asyncio.timeout(30):
        async for event in replica.runs.WatchRun(request, metadata=replica.as_tenant()):
            yield event


def recorded(events: Iterable[run_service_pb2.WatchRunResponse]) -> list[run_service_pb2.WatchRunResponse]:
    return [event for event in events if not event.HasField("text_delta")]


@asynccontextmanager
async def two(house: House, stack: AsyncExitStack) -> AsyncGenerator[tuple[Replica, Replica]]:
    """Starts two replicas, which may hand a run over to each other at any moment; calls wait for one sign."""
    one, other = await house.replica(stack, name="one"), await house.replica(stack, name="other")
    one.calls.open = other.calls.open = asyncio.Event()
    yield one, other


async def test_a_watcher_at_any_replica_sees_everything_once_and_resumes_at_the_other(house: House) -> None:
    async with AsyncExitStack() as stack, two(house, stack) as (one, other):
        run_id = await talk(one)
        watching = asyncio.ensure_future(_all(watch(other, run_id)))
        one.calls.open.set()
        whole = await watching
        assert whole[-1].run.state == SUCCEEDED
        sequences = [event.sequence for event in whole]
        assert sequences == sorted(set(sequences))
        for place in range(len(whole) - 1):
            resumed = await _all(watch(one if place % 2 else other, run_id, after=sequences[place]))
            # The run as it stood stands in events about its state; what follows is the same, whoever tells it.
            assert [event.sequence for event in resumed] == sequences[place + 1 :]
            assert resumed[-1] == whole[-1]


async def test_a_watcher_who_asks_gets_text_as_it_is_written_and_then_the_turn_that_supersedes_it(
    house: House,
) -> None:
    async with AsyncExitStack() as stack, two(house, stack) as (one, other):
        run_id = await talk(one)
        seen: list[run_service_pb2.WatchRunResponse] = []
        async for event in watch(other, run_id, deltas=True):
            seen.append(event)
            if event.HasField("text_delta"):
                one.calls.open.set()
        kinds = ["delta" if event.HasField("text_delta") else "turn" for event in seen if _speaks(event)]
        assert kinds[0] == "delta"
        assert kinds.count("turn") == 2
        first = next(event for event in seen if event.HasField("text_delta"))
        assert (first.text_delta.path, first.text_delta.text) == ("nodes/ask", "live ")
        plain = await _all(watch(other, run_id))
        assert plain == recorded(seen)
        assert plain == await _all(watch(one, run_id, deltas=True))


async def test_a_watcher_who_does_not_ask_gets_no_text(house: House) -> None:
    async with AsyncExitStack() as stack, two(house, stack) as (one, other):
        run_id = await talk(one)
        watching = asyncio.ensure_future(_all(watch(other, run_id)))
        asking = watch(other, run_id, deltas=True)
        async for event in asking:
            if event.HasField("text_delta"):
                break
        await asking.aclose()
        one.calls.open.set()
        assert recorded(events := await watching) == events


async def test_without_nats_runs_and_sessions_are_followed_all_the_same(
    house: House, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    port = free_port()
    config = tmp_path / "nats.conf"
    store = tmp_path_factory.mktemp("jetstream")
    config.write_text(
        f'listen: "127.0.0.1:{port}"\nauthorization {{ token: "t" }}\njetstream {{ store_dir: "{store}" }}\n'
    )
    alone = replace(house, nats=NatsServer(url=f"nats://127.0.0.1:{port}", token="t"))
    async with AsyncExitStack() as stack:
        with RunNats(config, port):
            one, other = await stack.enter_async_context(two(alone, stack))
            run_id, session = await talk(one), await start(one)
            of_run = asyncio.ensure_future(_all(watch(other, run_id, deltas=True)))
            of_session = asyncio.ensure_future(_session(other, session.session_id))
            await _until_watched(one, run_id)
        # Nobody wakes a watcher any more.
        one.calls.open.set()
        assert recorded(await of_run)[-1].run.state == SUCCEEDED
        told = await of_session
        assert told[-1].WhichOneof("event") == "session_ended"
        later = await _all(watch(other, run_id, after=told[0].sequence))
        assert later[-1].run.state == SUCCEEDED


async def _all(
    events: AsyncGenerator[run_service_pb2.WatchRunResponse],
) -> list[run_service_pb2.WatchRunResponse]:
    return [event async for event in events]


async def _session(replica: Replica, session_id: str) -> list[session_service_pb2.WatchSessionResponse]:
    request = session_service_pb2.WatchSessionRequest(session_id=session_id)
    async with asyncio.timeout(30):
        return [event async for event in replica.sessions.WatchSession(request, metadata=replica.as_tenant())]


async def _until_watched(replica: Replica, run_id: str) -> None:
    """Waits until live text comes through, so that all is under way."""
    asking = watch(replica, run_id, deltas=True)
    async for event in asking:
        if event.HasField("text_delta"):
            break
    await asking.aclose()


def _speaks(event: run_service_pb2.WatchRunResponse) -> bool:
    return event.HasField("text_delta") or event.HasField("turn")


async def test_whoever_may_steer_a_run_and_not_read_it_is_shown_nothing_that_it_was_given(house: House) -> None:
    async with AsyncExitStack() as stack:
        replica = await house.replica(stack, name="one")
        replica.calls.open.clear()
        await agent(replica, "Ada")
        await create(replica, TWO_AGENTS)
        request = run_service_pb2.StartRunRequest(workflow="talk", input={"secret": "bell"})  # type: ignore[arg-type]
        run_id = (await replica.runs.StartRun(request, metadata=replica.as_tenant())).run.run_id
        scopes = frozenset({"runs.control"})
        steers = call_metadata(replica.server.keys.principal(Role.ADMIN, scopes=scopes))
        for verb in ("Pause", "Resume", "Signal", "Cancel"):
            asked = getattr(run_service_pb2, f"{verb}RunRequest")(run_id=run_id, request_id=str(uuid4()))
            if verb == "Signal":
                asked.name = "go"
            for metadata, reads in ((steers, False), (replica.as_tenant(), True), (steers, False)):
                answer = await getattr(replica.runs, f"{verb}Run")(asked, metadata=metadata)
                assert answer.run.run_id == run_id
                assert answer.run.HasField("input") == reads
        seen = await replica.runs.GetRun(run_service_pb2.GetRunRequest(run_id=run_id), metadata=replica.as_tenant())
        assert seen.run.input["secret"] == "bell"
        replica.calls.open.set()
