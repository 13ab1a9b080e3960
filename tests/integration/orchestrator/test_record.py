"""The record of runs on a real journal: replayed, exported, forked, compared, and by whom."""

import io
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from hashlib import sha256
from uuid import uuid4

import grpc
import grpc.aio
import pytest

from comitia.orchestrator.v1 import (
    agent_pb2,
    agent_service_pb2,
    journal_pb2,
    record_pb2,
    run_pb2,
    session_pb2,
    session_service_pb2,
)
from comitia.orchestrator.v1 import record_service_pb2 as pb
from comitia_sdk.record.run_file import RunFileReader
from services.meshkit.core.errors import Unavailable
from services.meshkit.core.identity import Role
from services.meshkit.grpc.channel import call_metadata
from services.meshkit.grpc.errors import remote_error
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.scope import maintenance_scope
from services.orchestrator.record.replaying import Rerun
from tests.integration.orchestrator.conftest import OTHER_TENANT, House, Replica
from tests.integration.orchestrator.test_sessions import TERMINAL, refused, start, until
from tests.support.sessions import World, a_generation

SUCCEEDED = session_pb2.SESSION_STATE_SUCCEEDED


async def ended_session(replica: Replica, **fields: object) -> session_pb2.Session:
    session = await start(replica, **fields)
    return await until(replica, session.session_id, *TERMINAL)


async def replay(replica: Replica, run_id: str) -> record_pb2.Replay:
    request = pb.ReplayRunRequest(run_id=run_id)
    return (await replica.records.ReplayRun(request, metadata=replica.as_tenant())).replay


async def export(replica: Replica, run_id: str) -> bytes:
    request = pb.ExportRunRequest(run_id=run_id)
    pieces = [piece.data async for piece in replica.records.ExportRun(request, metadata=replica.as_tenant())]
    assert all(len(piece) <= 64 * 1024 for piece in pieces)
    return b"".join(pieces)


async def fork(replica: Replica, run_id: str, **fields: object) -> run_pb2.Run:
    request = pb.ForkRunRequest(run_id=run_id, **fields)  # type: ignore[arg-type]
    return (await replica.records.ForkRun(request, metadata=replica.as_tenant())).run


async def diff(replica: Replica, first: str, second: str, *, by_meaning: bool = False) -> record_pb2.RunDifference:
    request = pb.DiffRunsRequest(run_id=first, other_run_id=second, by_meaning=by_meaning)
    return (await replica.records.DiffRuns(request, metadata=replica.as_tenant())).difference


def replayed(file: bytes) -> record_pb2.Replay:
    """Replays a file as `comitia replay` does."""
    reader = RunFileReader(io.BytesIO(file))
    rerun = Rerun(reader.run_id)
    for fact in reader.facts():
        rerun.take_fact(fact.entry)
    return rerun.finish()


def steps_of(difference: record_pb2.RunDifference) -> Sequence[str]:
    return [step.path for step in difference.steps]


async def test_a_session_replays_to_what_was_recorded_and_so_does_its_file(replica: Replica) -> None:
    session = await ended_session(replica)
    asked = len(replica.calls.world.requests)
    report = await replay(replica, session.session_id)
    assert (report.same, report.fact_count, report.program) == (True, session.sequence, "dialogue")
    assert 0 < report.decided_count < report.fact_count
    from_file = replayed(await export(replica, session.session_id))
    assert from_file.same
    assert from_file.replay_sha256 == report.replay_sha256
    assert len(replica.calls.world.requests) == asked, "nobody is called"


async def test_a_fork_at_a_turn_goes_on_with_another_topic_and_is_a_session_of_its_own(
    house: House, replica: Replica
) -> None:
    session = await ended_session(replica)
    budgets = replica.preparation.budgets
    house.world.say = lambda path, _: f"changed my mind at {path}"
    started = await fork(replica, session.session_id, path="rounds/2/Athena", topic="Rivers", max_cost_nano_usd=77)
    assert started.forked_from_run_id == session.session_id
    assert (started.forked_at_sequence > 0, started.max_cost_nano_usd) == (True, 77)
    assert replica.preparation.budgets == budgets + 1
    forked = await until(replica, started.run_id, *TERMINAL)
    assert (forked.state, forked.turn_count, forked.topic_start) == (SUCCEEDED, 4, "Rivers")
    assert forked.forked_from_run_id == session.session_id
    asked = session_service_pb2.ListTurnsRequest(session_id=started.run_id)
    turns = (await replica.sessions.ListTurns(asked, metadata=replica.as_tenant())).turns
    assert [(turn.round, turn.agent_name) for turn in turns] == [
        *((1, "Athena"), (1, "Apollo")),  # which it has taken over
        *((2, "Athena"), (2, "Apollo")),
    ]
    assert (await replay(replica, started.run_id)).same
    assert (await replay(replica, session.session_id)).same, "the other run stays as it is"
    assert replayed(await export(replica, started.run_id)).same
    found = await diff(replica, session.session_id, started.run_id)
    assert list(steps_of(found)) == ["rounds/2/Athena", "rounds/2/Apollo"]
    assert {pin.field for pin in found.pins} >= {"session.topic_start"}


async def test_a_fork_has_its_budget_below_that_of_the_same_project(replica: Replica) -> None:
    projects = replica.preparation.projects
    for metadata, project in (({"project": "atlas"}, "atlas"), ({}, "")):
        session = await ended_session(replica, metadata=metadata)
        forked = await fork(replica, session.session_id, path="rounds/2/Athena", topic="Rivers")
        assert (projects[session.session_id], projects[forked.run_id]) == (project, project)


async def test_a_fork_outlives_its_replica(house: House, replica: Replica) -> None:
    session = await ended_session(replica)
    replica.calls.open.clear()
    started = await fork(replica, session.session_id, path="rounds/2/Apollo")
    await replica.engine.stop(replica.server.keys.principal().tenant)
    replica.calls.open.set()
    async with AsyncExitStack() as stack:
        other = await house.replica(stack, name="one")
        assert (await until(other, started.run_id, *TERMINAL)).state == SUCCEEDED


async def test_another_version_of_an_agent_takes_its_place_in_a_fork(house: House, replica: Replica) -> None:
    session = await ended_session(replica)
    agent = agent_pb2.Agent(name="Apollo", version="2.0.0", instructions="Speak in verse.")
    await replica.agents.CreateAgent(agent_service_pb2.CreateAgentRequest(agent=agent), metadata=replica.as_tenant())
    change = pb.AgentChange(name="Apollo", version="2.0.0")
    started = await fork(replica, session.session_id, path="rounds/2/Athena", agents=[change])
    forked = await until(replica, started.run_id, *TERMINAL)
    assert list(forked.agents) == ["Athena@1.0.0", "Apollo@2.0.0"]
    found = await diff(replica, session.session_id, started.run_id)
    sides = {step.path: step.second.agent for step in found.steps}
    assert sides["rounds/2/Apollo"] == "Apollo@2.0.0"
    missing = pb.AgentChange(name="Apollo", version="9.0.0")
    answer = await refused(lambda: fork(replica, session.session_id, agents=[missing]))
    assert answer[:2] == (grpc.StatusCode.NOT_FOUND, "AGENT_NOT_FOUND")


async def test_a_dry_fork_calls_no_tool_and_one_with_real_effects_does(house: House, replica: Replica) -> None:
    agent = agent_pb2.Agent(name="Athena", version="1.0.0", instructions="Reckon.", tools=["calculator"])
    await replica.agents.CreateAgent(agent_service_pb2.CreateAgentRequest(agent=agent), metadata=replica.as_tenant())

    def wishes() -> None:
        asked = a_generation("", tool="calculator", arguments={"expression": "6 * 7"})
        house.world.generations["rounds/1/Athena"] = [asked, a_generation("It is 42.")]

    def called() -> int:
        kinds = [entry.call_intended.kind for entry in house.world.requests]
        return kinds.count(journal_pb2.CALL_KIND_TOOL)

    wishes()
    request = session_service_pb2.StartSessionRequest(
        topic="6 * 7?", mode=session_pb2.SESSION_MODE_DIALOGUE, agents=["Athena"], max_rounds=1
    )
    session = (await replica.sessions.StartSession(request, metadata=replica.as_tenant())).session
    await until(replica, session.session_id, *TERMINAL)
    assert called() == 1
    wishes()
    dry = await fork(replica, session.session_id)
    ended = await until(replica, dry.run_id, *TERMINAL)
    assert (ended.state, called()) == (SUCCEEDED, 1)
    assert ended.cost_nano_usd == 2_000, "two answers of the model, and none of the tool"
    wishes()
    real = await fork(replica, session.session_id, effects=pb.FORK_EFFECTS_REAL)
    await until(replica, real.run_id, *TERMINAL)
    assert called() == 2


async def test_a_repeated_request_forks_once(replica: Replica) -> None:
    session = await ended_session(replica)
    request_id = str(uuid4())
    first = await fork(replica, session.session_id, path="rounds/2/Athena", request_id=request_id)
    again = await fork(replica, session.session_id, path="rounds/2/Athena", request_id=request_id)
    assert again == first
    otherwise = await refused(lambda: fork(replica, session.session_id, path="rounds/2/Apollo", request_id=request_id))
    assert otherwise[:2] == (grpc.StatusCode.ABORTED, "REQUEST_ID_REUSED")


REFUSED: tuple[tuple[dict[str, object], str], ...] = (
    ({"path": "rounds/9/Athena"}, "path"),
    ({"at_sequence": 10_000}, "at_sequence"),
    ({"at_sequence": -1}, "at_sequence"),
    ({"at_sequence": 3, "path": "rounds/2/Athena"}, "at_sequence"),
    ({"policy": "strict"}, "policy"),
    ({"policy": "strict@1.0.0", "effects": pb.FORK_EFFECTS_REAL}, "effects"),
    ({"input": {"a": 1}}, "input"),
    ({"topic": " "}, "topic"),
    ({"model": "m" * 300}, "model"),
    ({"max_cost_nano_usd": -1}, "max_cost_nano_usd"),
    ({"effects": 9}, "effects"),
    ({"agents": [pb.AgentChange(name="Athena")]}, "agents[0]"),
    ({"agents": [pb.AgentChange(name="Hermes", model="m")]}, "agents[0].name"),
    ({"agents": [pb.AgentChange(name="Athena", version="x")]}, "agents[0].version"),
    ({"agents": [pb.AgentChange(name="Athena", instructions="i" * 20_000)]}, "agents[0].instructions"),
    ({"agents": [pb.AgentChange(name="Athena", model="m")] * 17}, "agents"),
    ({"request_id": "twice"}, "request_id"),
)


async def test_a_fork_that_cannot_be_made_is_refused_by_field_and_leaves_nothing(replica: Replica) -> None:
    session = await ended_session(replica)
    budgets = replica.preparation.budgets
    for fields, field in REFUSED:
        answer = await refused(lambda fields=fields: fork(replica, session.session_id, **fields))
        assert answer == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field), fields
    assert replica.preparation.budgets == budgets


async def test_texts_are_compared_by_meaning_when_asked_and_the_rest_stays_when_that_is_refused(
    house: House, replica: Replica
) -> None:
    first = await ended_session(replica, max_rounds=1)
    house.world.say = lambda path, _: f"{path}: no"
    second = await ended_session(replica, max_rounds=1)
    plain = await diff(replica, first.session_id, second.session_id)
    assert not any(step.HasField("meaning") for step in plain.steps)
    assert not house.embedder.asked
    by_meaning = await diff(replica, first.session_id, second.session_id, by_meaning=True)
    assert all(step.HasField("meaning") for step in by_meaning.steps)
    house.embedder.refusal = Unavailable("inference")
    left_out = await diff(replica, first.session_id, second.session_id, by_meaning=True)
    assert left_out.meaning_left_out.startswith("UNAVAILABLE: ")
    assert steps_of(left_out) == steps_of(plain)
    itself = await refused(lambda: diff(replica, first.session_id, first.session_id))
    assert itself == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "other_run_id")


async def test_a_run_of_another_tenant_is_not_there(replica: Replica) -> None:
    session = await ended_session(replica)
    mine = await ended_session(replica)
    stranger = replica.as_tenant(OTHER_TENANT)
    run_id = session.session_id
    calls = [
        lambda: replica.records.ReplayRun(pb.ReplayRunRequest(run_id=run_id), metadata=stranger),
        lambda: replica.records.ForkRun(pb.ForkRunRequest(run_id=run_id), metadata=stranger),
        lambda: replica.records.DiffRuns(
            pb.DiffRunsRequest(run_id=run_id, other_run_id=mine.session_id), metadata=stranger
        ),
        lambda: replica.records.ExportRun(pb.ExportRunRequest(run_id=run_id), metadata=stranger).read(),
    ]
    for call in calls:
        assert (await refused(call))[:2] == (grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND")


async def test_whoever_may_not_write_agents_gives_none_other_instructions(replica: Replica) -> None:
    session = await ended_session(replica)
    narrowed = replica.server.keys.principal(Role.ADMIN, scopes=frozenset({"runs.start", "runs.read"}))
    change = pb.AgentChange(name="Athena", instructions="Obey me.")
    request = pb.ForkRunRequest(run_id=session.session_id, agents=[change])
    answer = await refused(lambda: replica.records.ForkRun(request, metadata=call_metadata(narrowed)))
    assert answer[:2] == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_MISSING")
    other = pb.ForkRunRequest(run_id=session.session_id, agents=[pb.AgentChange(name="Athena", model="m")])
    await replica.records.ForkRun(other, metadata=call_metadata(narrowed))


async def test_a_fork_is_judged_under_another_policy_and_shows_it(house: House, replica: Replica) -> None:
    session = await ended_session(replica)
    before = len(house.world.requests)
    started = await fork(replica, session.session_id, path="rounds/2/Athena", policy="strict@1.0.0")
    digest = sha256(b"strict@1.0.0").hexdigest()
    assert (started.policy, started.policy_digest) == ("strict@1.0.0", digest)
    seen = await until(replica, started.run_id, *TERMINAL)
    assert (seen.policy, seen.policy_digest) == ("strict@1.0.0", digest)
    assert (await replay(replica, started.run_id)).same
    found = await diff(replica, session.session_id, started.run_id)
    assert {(pin.field, pin.after) for pin in found.pins} >= {
        ("session.policy", "strict@1.0.0"),
        ("session.policy_digest", digest),
    }
    assert len(house.world.requests) > before
    again = await fork(replica, started.run_id)
    assert (again.policy, again.policy_digest) == ("", ""), "the law judges unless the fork is told otherwise"


async def test_what_another_bundle_judged_is_taken_over_under_a_bundle_only(replica: Replica) -> None:
    session = await ended_session(replica)
    run_id, other, budgets = session.session_id, "strict@1.0.0", replica.preparation.budgets
    for policy in (other, "ground@1.0.0", other):
        made = await fork(replica, run_id, path="rounds/2/Athena", policy=policy)
        run_id, budgets = made.run_id, budgets + 1
        await until(replica, run_id, *TERMINAL)
        for fields in (
            {"path": "rounds/2/Apollo"},
            {"path": "rounds/2/Apollo", "effects": pb.FORK_EFFECTS_REAL},
            {"at_sequence": 5, "effects": pb.FORK_EFFECTS_REAL},
        ):
            answer = await refused(partial(fork, replica, run_id, **fields))
            assert answer == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "policy"), fields
    assert replica.preparation.budgets == budgets
    assert (await fork(replica, run_id, effects=pb.FORK_EFFECTS_REAL)).policy == "", "nothing is taken over"


async def test_a_bundle_that_is_not_there_leaves_nothing_of_a_fork(replica: Replica) -> None:
    session = await ended_session(replica)
    budgets = replica.preparation.budgets
    answer = await refused(lambda: fork(replica, session.session_id, policy="missing@1.0.0"))
    assert answer == (grpc.StatusCode.NOT_FOUND, "BUNDLE_NOT_FOUND", "policy")
    assert replica.preparation.budgets == budgets


async def test_whoever_may_not_write_policies_forks_under_none_but_the_law(replica: Replica) -> None:
    session = await ended_session(replica)
    request = pb.ForkRunRequest(run_id=session.session_id, policy="strict@1.0.0")
    scopes = frozenset({"runs.start", "runs.read"})
    for caller in (
        replica.server.keys.principal(Role.TENANT_USER),
        replica.server.keys.principal(Role.ADMIN, scopes=scopes),
    ):
        answer = await refused(lambda caller=caller: replica.records.ForkRun(request, metadata=call_metadata(caller)))
        assert answer[:2] == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_MISSING")


@pytest.mark.parametrize("scope", ["runs.start", "runs.read"])
async def test_whoever_may_not_read_runs_and_start_them_forks_none(replica: Replica, scope: str) -> None:
    session = await ended_session(replica)
    narrowed = replica.server.keys.principal(Role.ADMIN, scopes=frozenset({scope}))
    request = pb.ForkRunRequest(run_id=session.session_id)
    answer = await refused(lambda: replica.records.ForkRun(request, metadata=call_metadata(narrowed)))
    assert answer[:2] == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_MISSING")


async def test_a_run_whose_key_was_destroyed_replays_its_structure_and_nothing_more(
    house: House, replica: Replica
) -> None:
    session = await ended_session(replica)
    other = await ended_session(replica)
    whole = await replay(replica, session.session_id)
    async with sql_engine(house.urls.maintenance, pool_size=1) as engine, maintenance_scope(engine) as scope:
        await scope.exec_driver_sql("UPDATE data_key SET wrapped = NULL, destroyed_time = now()")
        await scope.commit()
    async with AsyncExitStack() as stack:
        late = await house.replica(stack, name="two")
        left = await replay(late, session.session_id)
        assert (left.structure_only, left.same, left.fact_count) == (True, True, whole.fact_count)
        assert left.commitments_sha256 == whole.commitments_sha256, "what outlives the key"
        assert not left.replay_sha256
        reader = RunFileReader(io.BytesIO(await export(late, session.session_id)))
        assert reader.structure_only
        assert sum(len(commit.commitments) for commit in reader.commits()) == whole.fact_count
        for call in (
            lambda: fork(late, session.session_id),
            lambda: diff(late, session.session_id, other.session_id),
        ):
            assert (await refused(call))[:2] == (grpc.StatusCode.FAILED_PRECONDITION, "RECORD_DESTROYED")


async def test_a_fork_of_a_run_in_progress_goes_its_own_way(house: House, replica: Replica) -> None:
    session = await start(replica, manual_advance=True)
    await until(replica, session.session_id, session_pb2.SESSION_STATE_WAITING)
    forked = await fork(replica, session.session_id, path="rounds/1/Apollo", topic="Rivers")
    waiting = await until(replica, forked.run_id, session_pb2.SESSION_STATE_WAITING)
    assert (waiting.rounds_executed, waiting.topic_start) == (1, "Rivers")
    assert isinstance(house.world, World)


async def test_of_a_run_of_a_project_viewers_read_the_record_and_editors_fork_it(
    house: House, replica: Replica
) -> None:
    for relation in ("editor", "viewer"):
        house.gate.grant("key_ed", relation, "project:claims")
    house.gate.grant("key_vi", "viewer", "project:claims")
    session = await ended_session(replica, metadata={"project": "claims"})
    mine = await ended_session(replica)
    run_id = session.session_id

    async def missing(subject: str, project: str | None = None) -> list[str]:
        """Says for each RPC what its refusal names, empty for a success."""
        principal = replica.server.keys.principal(Role.TENANT_USER, subject=subject, project=project)
        user = call_metadata(principal)
        records, found = replica.records, list[str]()
        for call in (
            lambda: records.ReplayRun(pb.ReplayRunRequest(run_id=run_id), metadata=user),
            lambda: records.DiffRuns(pb.DiffRunsRequest(run_id=mine.session_id, other_run_id=run_id), metadata=user),
            lambda: records.ExportRun(pb.ExportRunRequest(run_id=run_id), metadata=user).read(),
            lambda: records.ForkRun(pb.ForkRunRequest(run_id=run_id), metadata=user),
        ):
            try:
                await call()
            except grpc.aio.AioRpcError as failure:
                found.append(remote_error(failure).metadata.get("relation", remote_error(failure).reason))
            else:
                found.append("")
        return found

    assert await missing("key_stranger") == ["viewer", "viewer", "viewer", "viewer"]
    assert await missing("key_vi") == ["", "", "", "editor"]
    assert await missing("key_ed") == ["", "", "", ""]
    # Whoever is bound to another project does not know of it.
    assert await missing("key_ed", "billing") == ["RUN_NOT_FOUND"] * 4
    forked = await fork(replica, run_id)
    assert forked.metadata["project"] == "claims"
