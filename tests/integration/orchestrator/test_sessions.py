"""Sessions through the real gRPC face, on a real journal."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack
from uuid import uuid4

import grpc
import grpc.aio
import pytest

from comitia.orchestrator.v1 import agent_pb2, agent_service_pb2, session_pb2
from comitia.orchestrator.v1 import session_service_pb2 as pb
from services.meshkit.core.errors import Unavailable
from services.meshkit.core.identity import Role
from services.meshkit.grpc.channel import call_metadata
from services.meshkit.grpc.errors import remote_error
from services.meshkit.sql.catalogue import audit_catalogue
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import drift, migrate
from services.meshkit.sql.scope import maintenance_scope
from services.orchestrator.engine.facts import Replay
from services.orchestrator.engine.run import RunWrite, ShardLease
from services.orchestrator.programs import dialogue
from services.orchestrator.programs import run as program
from services.orchestrator.storage.tables import METADATA
from tests.integration.conftest import MakeDatabase
from tests.integration.orchestrator.conftest import OTHER_TENANT, House, Replica
from tests.support.sessions import a_generation

TERMINAL = (
    session_pb2.SESSION_STATE_SUCCEEDED,
    session_pb2.SESSION_STATE_FAILED,
    session_pb2.SESSION_STATE_CANCELLED,
)


async def create_agents(replica: Replica, *names: str) -> None:
    for name in names:
        agent = agent_pb2.Agent(name=name, version="1.0.0", instructions="Speak plainly.")
        request = agent_service_pb2.CreateAgentRequest(agent=agent)
        await replica.agents.CreateAgent(request, metadata=replica.as_tenant())


async def start(replica: Replica, **fields: object) -> session_pb2.Session:
    await create_agents(replica, "Athena", "Apollo")
    request = pb.StartSessionRequest(
        **{  # type: ignore[arg-type]
            "topic": "One database each?",
            "mode": session_pb2.SESSION_MODE_DEBATE,
            "agents": ["Athena", "Apollo"],
            "max_rounds": 2,
            **fields,
        }
    )
    return (await replica.sessions.StartSession(request, metadata=replica.as_tenant())).session


async def session_of(replica: Replica, session_id: str) -> session_pb2.Session:
    request = pb.GetSessionRequest(session_id=session_id)
    return (await replica.sessions.GetSession(request, metadata=replica.as_tenant())).session


async def until(replica: Replica, session_id: str, *states: session_pb2.SessionState.ValueType) -> session_pb2.Session:
    async with asyncio.timeout(20):
        while True:
            session = await session_of(replica, session_id)
            if session.state in states:
                return session
            await asyncio.sleep(0.02)


async def until_driven(replica: Replica) -> None:
    end = time.monotonic() + 20
    while not replica.engine.running:
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


async def refused(call: Callable[[], Awaitable[object]]) -> tuple[grpc.StatusCode, str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call()
    error = remote_error(failure.value)
    return failure.value.code(), error.reason, error.field or ""


async def test_what_an_agent_says_of_its_making_is_ignored(replica: Replica) -> None:
    agent = agent_pb2.Agent(name="Athena", version="1.0.0", instructions="Speak plainly.")
    claimed = agent_pb2.Agent()
    claimed.CopyFrom(agent)
    claimed.digest = "0" * 64
    claimed.create_time.FromSeconds(0)
    made = [
        (
            await replica.agents.CreateAgent(
                agent_service_pb2.CreateAgentRequest(agent=one), metadata=replica.as_tenant()
            )
        ).agent
        for one in (claimed, agent)
    ]
    assert made[0] == made[1]
    assert made[0].digest != claimed.digest
    assert made[0].create_time.ToSeconds() > 0


async def test_a_session_runs_to_its_end_and_shows_its_turns(replica: Replica) -> None:
    session = await start(replica)
    ended = await until(replica, session.session_id, *TERMINAL)
    assert ended.state == session_pb2.SESSION_STATE_SUCCEEDED
    assert (ended.rounds_executed, ended.turn_count, ended.usage.input_tokens) == (2, 4, 40)
    assert list(ended.agents) == ["Athena@1.0.0", "Apollo@1.0.0"]
    first = await replica.sessions.ListTurns(
        pb.ListTurnsRequest(session_id=session.session_id, page_size=3), metadata=replica.as_tenant()
    )
    rest = await replica.sessions.ListTurns(
        pb.ListTurnsRequest(session_id=session.session_id, page_size=3, page_token=first.next_page_token),
        metadata=replica.as_tenant(),
    )
    assert [turn.index for turn in (*first.turns, *rest.turns)] == [1, 2, 3, 4]
    assert not rest.next_page_token
    assert first.turns[0].cost.cost_nano_usd == 1_000


async def test_a_watcher_sees_everything_once_and_can_resume(replica: Replica) -> None:
    replica.calls.open.clear()
    session = await start(replica)
    seen: list[pb.WatchSessionResponse] = []
    request = pb.WatchSessionRequest(session_id=session.session_id)
    async for event in replica.sessions.WatchSession(request, metadata=replica.as_tenant()):
        seen.append(event)
        replica.calls.open.set()
    recorded = [event for event in seen if event.WhichOneof("event") != "text_delta"]
    assert [event.WhichOneof("event") for event in recorded][:2] == ["session_started", "turn_started"]
    assert recorded[-1].WhichOneof("event") == "session_ended"
    sequences = [event.sequence for event in recorded]
    assert sequences == sorted(set(sequences))
    middle = sequences[len(sequences) // 2]
    again = pb.WatchSessionRequest(session_id=session.session_id, after_sequence=middle)
    resumed = [event async for event in replica.sessions.WatchSession(again, metadata=replica.as_tenant())]
    assert [event.sequence for event in resumed] == [number for number in sequences if number > middle]


async def test_live_text_reaches_a_watcher_before_the_turn_is_recorded(replica: Replica) -> None:
    replica.calls.open.clear()
    session = await start(replica)
    request = pb.WatchSessionRequest(session_id=session.session_id)
    kinds: list[str | None] = []
    async for event in replica.sessions.WatchSession(request, metadata=replica.as_tenant()):
        kinds.append(event.WhichOneof("event"))
        if kinds[-1] == "text_delta":
            replica.calls.open.set()
    assert "text_delta" in kinds
    assert kinds.index("text_delta") < kinds.index("turn_completed")


async def test_live_text_still_reaches_a_watcher_after_a_silence(replica: Replica) -> None:
    replica.calls.open.clear()
    session = await start(replica, manual_advance=True)
    replica.calls.open.set()
    await until(replica, session.session_id, session_pb2.SESSION_STATE_WAITING)
    replica.calls.open.clear()
    request = pb.WatchSessionRequest(session_id=session.session_id)
    advance = pb.AdvanceSessionRequest(session_id=session.session_id)
    kinds: list[str | None] = []

    async def later() -> None:
        await asyncio.sleep(1.3)  # Longer than a watcher waits for news before it reads the journal by itself.
        await replica.sessions.AdvanceSession(advance, metadata=replica.as_tenant())

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(later())
        async for event in replica.sessions.WatchSession(request, metadata=replica.as_tenant()):
            kinds.append(event.WhichOneof("event"))
            if kinds[-1] == "text_delta":
                replica.calls.open.set()
    assert "text_delta" in kinds


async def test_a_manual_session_waits_and_advances(replica: Replica) -> None:
    session = await start(replica, manual_advance=True)
    await until(replica, session.session_id, session_pb2.SESSION_STATE_WAITING)
    request = pb.AdvanceSessionRequest(session_id=session.session_id)
    await replica.sessions.AdvanceSession(request, metadata=replica.as_tenant())
    ended = await until(replica, session.session_id, *TERMINAL)
    assert ended.rounds_executed == 2
    code, reason, _ = await refused(lambda: replica.sessions.AdvanceSession(request, metadata=replica.as_tenant()))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SESSION_NOT_WAITING")


async def test_whoever_may_steer_a_session_and_not_read_it_is_not_shown_what_it_is_about(replica: Replica) -> None:
    session = await start(replica, manual_advance=True, max_rounds=3)
    await until(replica, session.session_id, session_pb2.SESSION_STATE_WAITING)
    steers = call_metadata(replica.server.keys.principal(Role.ADMIN, scopes=frozenset({"sessions.control"})))
    advance = pb.AdvanceSessionRequest(session_id=session.session_id, request_id=str(uuid4()))
    cancel = pb.CancelSessionRequest(session_id=session.session_id, request_id=str(uuid4()))
    for metadata, topic in ((replica.as_tenant(), session.topic_start), (steers, "")):
        shown = (await replica.sessions.AdvanceSession(advance, metadata=metadata)).session
        assert (shown.session_id, shown.topic_start, shown.topic_final) == (session.session_id, topic, topic)
    await until(replica, session.session_id, session_pb2.SESSION_STATE_WAITING)
    for metadata, topic in ((steers, ""), (replica.as_tenant(), session.topic_start)):
        shown = (await replica.sessions.CancelSession(cancel, metadata=metadata)).session
        assert (shown.session_id, shown.topic_start, shown.topic_final) == (session.session_id, topic, topic)
    assert (await session_of(replica, session.session_id)).topic_start == "One database each?"


async def test_a_cancelled_session_ends_at_once_and_stays_ended(replica: Replica) -> None:
    replica.calls.open.clear()
    session = await start(replica)
    request = pb.CancelSessionRequest(session_id=session.session_id)
    answer = await replica.sessions.CancelSession(request, metadata=replica.as_tenant())
    assert answer.session.state == session_pb2.SESSION_STATE_CANCELLED
    replica.calls.open.set()
    assert not answer.session.turn_count
    code, reason, _ = await refused(lambda: replica.sessions.CancelSession(request, metadata=replica.as_tenant()))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SESSION_ALREADY_TERMINAL")


async def test_a_repeated_request_id_answers_with_the_first_session(replica: Replica) -> None:
    request_id = str(uuid4())
    first = await start(replica, request_id=request_id)
    second = await start(replica, request_id=request_id)
    assert first.session_id == second.session_id
    code, reason, _ = await refused(lambda: start(replica, request_id=request_id, topic="Another"))
    assert (code, reason) == (grpc.StatusCode.ABORTED, "REQUEST_ID_REUSED")


async def test_a_killed_replica_loses_nothing(house: House) -> None:
    """The second incarnation takes the run up from the journal; no turn is recorded twice."""
    async with AsyncExitStack() as stack:
        first = await house.replica(stack)
        first.calls.open.clear()
        session = await start(first)
    async with AsyncExitStack() as stack:
        second = await house.replica(stack)
        ended = await until(second, session.session_id, *TERMINAL)
        assert ended.state == session_pb2.SESSION_STATE_SUCCEEDED
        turns = await second.sessions.ListTurns(
            pb.ListTurnsRequest(session_id=session.session_id), metadata=second.as_tenant()
        )
        assert [turn.index for turn in turns.turns] == [1, 2, 3, 4]
        replay = Replay(session.session_id)
        tenant = second.server.keys.principal().tenant
        for _, entry in await second.store.journal.entries(tenant, session.session_id):
            replay.feed(entry)
        replay.finish()


async def test_a_session_that_no_release_can_go_on_with_says_so_and_can_be_cancelled(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        first = await house.replica(stack)
        first.calls.open.clear()
        session = await start(first)
    monkeypatch.delitem(program.PROGRAMS, (dialogue.NAME, dialogue.VERSION))  # type: ignore[arg-type]
    async with AsyncExitStack() as stack:
        second = await house.replica(stack)
        parked = await until(second, session.session_id, session_pb2.SESSION_STATE_PARKED)
        assert parked.state_reason == "PROGRAM_UNKNOWN"
        cancel = pb.CancelSessionRequest(session_id=session.session_id)
        answer = await second.sessions.CancelSession(cancel, metadata=second.as_tenant())
        assert answer.session.state == session_pb2.SESSION_STATE_CANCELLED
        watch = pb.WatchSessionRequest(session_id=session.session_id)
        seen = [event async for event in second.sessions.WatchSession(watch, metadata=second.as_tenant())]
        kinds = [event.WhichOneof("event") for event in seen]
        assert kinds == ["session_started", "turn_started", "state_changed", "session_ended"]


async def test_a_parked_session_says_why_and_goes_on(replica: Replica) -> None:
    replica.calls.parked_first = True
    replica.calls.open.clear()
    session = await start(replica)
    parked = await until(replica, session.session_id, session_pb2.SESSION_STATE_PARKED)
    assert (parked.state_reason, bool(parked.state_message)) == ("UNAVAILABLE", True)
    replica.calls.open.set()
    ended = await until(replica, session.session_id, *TERMINAL)
    assert ended.state == session_pb2.SESSION_STATE_SUCCEEDED
    assert not ended.state_reason


async def test_a_session_outlasts_a_database_that_is_away_for_a_moment(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, failures = replica.store.journal.commit, [Unavailable("postgres"), Unavailable("postgres")]

    async def commit_or_fail(leases: Sequence[ShardLease], writes: Sequence[RunWrite]) -> Collection[int]:
        if failures:
            raise failures.pop()
        return await commit(leases, writes)

    monkeypatch.setattr(replica.store.journal, "commit", commit_or_fail)
    session = await start(replica)
    ended = await until(replica, session.session_id, *TERMINAL)
    assert ended.state == session_pb2.SESSION_STATE_SUCCEEDED
    assert not failures
    asked = [(entry.path, entry.call_intended.call_index) for entry in replica.calls.world.requests]
    assert len(asked) == len(set(asked)), "no call was made twice"


async def test_another_tenants_session_does_not_exist(replica: Replica) -> None:
    session = await start(replica)
    stranger = replica.as_tenant(OTHER_TENANT)
    sessions, key = replica.sessions, session.session_id
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: sessions.GetSession(pb.GetSessionRequest(session_id=key), metadata=stranger),
        lambda: sessions.ListTurns(pb.ListTurnsRequest(session_id=key), metadata=stranger),
        lambda: sessions.AdvanceSession(pb.AdvanceSessionRequest(session_id=key), metadata=stranger),
        lambda: sessions.CancelSession(pb.CancelSessionRequest(session_id=key), metadata=stranger),
    ]
    for call in calls:
        assert (await refused(call))[:2] == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
    listed = await sessions.ListSessions(pb.ListSessionsRequest(), metadata=stranger)
    assert not listed.sessions
    mine = await sessions.ListSessions(pb.ListSessionsRequest(), metadata=replica.as_tenant())
    assert [one.session_id for one in mine.sessions] == [key]


@pytest.mark.parametrize(
    ("fields", "code", "reason", "field"),
    [
        ({"topic": " "}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "topic"),
        ({"topic": "x" * 16_001}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "topic"),
        ({"mode": 0}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "mode"),
        ({"mode": 77}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "mode"),
        ({"strategy": 9}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "strategy"),
        ({"agents": []}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "agents"),
        ({"agents": ["Athena", "Athena"]}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "agents"),
        ({"agents": ["Athena", "Athena@1.0.0"]}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "agents[1]"),
        ({"agents": ["Nobody"]}, grpc.StatusCode.NOT_FOUND, "AGENT_NOT_FOUND", "agents[0]"),
        ({"agents": ["Apollo", "Athena@9.9.9"]}, grpc.StatusCode.NOT_FOUND, "AGENT_NOT_FOUND", "agents[1]"),
        ({"agents": ["Athena@new"]}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "agents[0]"),
        ({"max_rounds": 0}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "max_rounds"),
        ({"max_rounds": -1}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "max_rounds"),
        ({"max_rounds": 10_000}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "max_rounds"),
        ({"max_cost_nano_usd": -5}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "max_cost_nano_usd"),
        ({"request_id": "x"}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "request_id"),
        ({"metadata": {"k": "v" * 300}}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "metadata['k']"),
        (
            {"metadata": {"project": "p" * 200}},
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_FIELD",
            "metadata['project']",
        ),
    ],
)
async def test_a_bad_request_is_refused_with_field_and_reason(
    replica: Replica, fields: dict[str, object], code: grpc.StatusCode, reason: str, field: str
) -> None:
    assert await refused(lambda: start(replica, **fields)) == (code, reason, field)
    listed = await replica.sessions.ListSessions(pb.ListSessionsRequest(), metadata=replica.as_tenant())
    assert not listed.sessions, "nothing is half-written"


async def test_more_runs_than_the_replica_may_drive_are_refused(house: House) -> None:
    async with AsyncExitStack() as stack:
        replica = await house.replica(stack, max_runs=1)
        replica.calls.open.clear()
        await start(replica)
        # A start that comes before the replica holds its shards is driven a moment later.
        await until_driven(replica)
        code, reason, _ = await refused(lambda: start(replica))
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RUNS_AT_LIMIT")
        assert replica.preparation.budgets == 1, "nothing was made for the one that was refused"
        replica.calls.open.set()


async def test_an_agents_version_never_changes(replica: Replica) -> None:
    await create_agents(replica, "Athena")
    await create_agents(replica, "Athena")
    changed = agent_pb2.Agent(name="Athena", version="1.0.0", instructions="Something else.")
    request = agent_service_pb2.CreateAgentRequest(agent=changed)
    code, reason, _ = await refused(lambda: replica.agents.CreateAgent(request, metadata=replica.as_tenant()))
    assert (code, reason) == (grpc.StatusCode.ALREADY_EXISTS, "AGENT_VERSION_EXISTS")


async def test_the_highest_version_is_the_one_meant(replica: Replica) -> None:
    for version in ("1.9.0", "1.10.0", "1.2.0"):
        agent = agent_pb2.Agent(name="Hermes", version=version, style={"logic": 0.5}, temperature=0.5)
        await replica.agents.CreateAgent(
            agent_service_pb2.CreateAgentRequest(agent=agent), metadata=replica.as_tenant()
        )
    found = await replica.agents.GetAgent(
        agent_service_pb2.GetAgentRequest(name="Hermes"), metadata=replica.as_tenant()
    )
    assert (found.agent.version, found.agent.temperature, dict(found.agent.style)) == ("1.10.0", 0.5, {"logic": 0.5})
    first = await replica.agents.ListAgents(
        agent_service_pb2.ListAgentsRequest(page_size=2), metadata=replica.as_tenant()
    )
    second = await replica.agents.ListAgents(
        agent_service_pb2.ListAgentsRequest(page_size=2, page_token=first.next_page_token),
        metadata=replica.as_tenant(),
    )
    assert [agent.version for agent in (*first.agents, *second.agents)] == ["1.2.0", "1.9.0", "1.10.0"]


async def test_a_model_that_fails_for_good_fails_the_session_with_its_reason(replica: Replica) -> None:
    replica.calls.world.generations["rounds/1/Apollo"] = [a_generation("")]
    session = await start(replica, max_rounds=1)
    ended = await until(replica, session.session_id, *TERMINAL)
    assert ended.turn_count == 2


async def test_every_table_is_guarded_and_matches_its_description(make_database: MakeDatabase) -> None:
    urls = await make_database("orchestrator")
    await migrate("services.orchestrator", urls.migrator)
    async with sql_engine(urls.migrator) as engine, maintenance_scope(engine) as scope:
        guards = await audit_catalogue(scope)
    assert {guard.name: guard.faults for guard in guards if guard.faults} == {}
    assert {guard.name for guard in guards if guard.untenanted} == {
        "audit_stream",
        "engine_replica",
        "shard",
        "schema_version_orchestrator",
    }
    assert await drift("services.orchestrator", urls.migrator, METADATA) == []
    await migrate("services.orchestrator", urls.migrator, to="base", back=True)
    await migrate("services.orchestrator", urls.migrator)
