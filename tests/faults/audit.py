"""What must hold after any fault: of sessions, of the journal, of memory, of money and of the provider's bill."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg

from comitia.orchestrator.v1 import session_pb2
from comitia_sdk.aio import AsyncClient
from services.cost.domain.hold import OPEN_STATES, HoldState
from services.orchestrator.programs.view import project
from tests.faults.journals import journals
from tests.faults.workload import AGENTS
from tests.support.mesh import RunningMesh
from tests.support.mesh_databases import connected

#: Cost looks for expired holds once a second.
_SWEEP: Final = timedelta(seconds=6)
#: The sweep leaves young settlements alone for 20 s, and looks every 15.
_SETTLE_SECONDS: Final = 45.0
_PAUSE_SECONDS: Final = 0.1

#: Model, prompt tokens, answer tokens.
Bill = tuple[str, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """How much there was to check; a test states a floor, or it could pass on nothing."""

    sessions: int
    turns: int
    memories: int
    #: Calls that the provider served to their end.
    served: int
    #: Of those, settled with exactly their tokens.
    settled: int
    #: Holds that nobody could settle: still dispatched, or charged at their bound.
    uncertain: int


async def audit(mesh: RunningMesh, client: AsyncClient, sessions: Sequence[session_pb2.Session]) -> Findings:
    """Checks everything, once all sessions have ended.

    Raises: AssertionError: something was lost, doubled, or not paid for.
    """
    turns = {session.session_id: await _check_session(client, session) for session in sessions}
    await _check_journals(mesh, sessions)
    memories = [await _check_memories(client, run_id, of_run) for run_id, of_run in turns.items()]
    await _until_settled(mesh)
    served, settled, uncertain = await _check_money(mesh)
    return Findings(
        sessions=len(sessions),
        turns=sum(map(len, turns.values())),
        memories=sum(memories),
        served=served,
        settled=settled,
        uncertain=uncertain,
    )


async def _check_session(client: AsyncClient, session: session_pb2.Session) -> list[session_pb2.Turn]:
    assert session.state == session_pb2.SESSION_STATE_SUCCEEDED, session
    turns = [turn async for turn in client.sessions.turns(session.session_id, page_size=100)]
    expected = session.max_rounds * len(AGENTS)
    assert len(turns) == session.turn_count == expected
    assert {turn.index for turn in turns} == set(range(1, expected + 1))
    assert len({turn.turn_id for turn in turns}) == expected
    said = {(turn.round, turn.agent_name) for turn in turns}
    assert said == {(round_, name) for round_ in range(1, session.max_rounds + 1) for name in AGENTS}
    for turn in turns:
        assert turn.output.content
        assert not turn.output.stub
        assert len(set(turn.hold_ids)) == len(turn.hold_ids)
        assert turn.verdict_ids
    return turns


async def _check_journals(mesh: RunningMesh, sessions: Sequence[session_pb2.Session]) -> None:
    """Replays each run, and checks that callers see what is recorded."""
    async with journals(mesh) as opened:
        for session in sessions:
            view = session_pb2.Session()
            for sequence, entry in enumerate(await opened.replayed(session.session_id), start=1):
                project(view, entry, sequence)
            assert view == session


async def _check_memories(client: AsyncClient, session_id: str, turns: Sequence[session_pb2.Turn]) -> int:
    memories = [memory async for memory in client.memories.list(session_id=session_id, page_size=100)]
    of_turn = Counter((memory.agent_name, tuple(memory.tags)) for memory in memories)
    assert all(count == 1 for count in of_turn.values()), f"doubled: {of_turn}"
    assert len(memories) <= len(turns)
    ids = {memory.memory_id for memory in memories}
    named = {turn.memory_id for turn in turns if turn.memory_id}
    assert named <= ids
    recalled = await client.memories.recall("rivers", session_id=session_id, semantic_matches=20)
    found = [match.memory.memory_id for match in recalled.semantic]
    assert len(set(found)) == len(found)
    return len(memories)


async def _until_settled(mesh: RunningMesh) -> None:
    """Waits until the sweeper has settled every recorded answer."""
    end = time.monotonic() + _SETTLE_SECONDS
    async with connected(mesh.data_dir, "inference") as connection:
        while pending := await connection.fetchval("SELECT count(*) FROM call WHERE settle_state = 'pending'"):
            assert time.monotonic() < end, f"{pending} recorded answers are not settled"
            await asyncio.sleep(_PAUSE_SECONDS)


async def _check_money(mesh: RunningMesh) -> tuple[int, int, int]:
    """Compares ledger, holds and budgets with each other and with what the provider served (INV-6, INV-7)."""
    holds, budgets, events = await _books(mesh)
    now = datetime.now(UTC)
    stale = [hold for hold in holds if hold["state"] in OPEN_STATES and hold["expire_time"] < now - _SWEEP]
    assert not stale, f"holds past their ttl: {stale}"
    spent = sum(event["cost_nano_usd"] for event in events)
    for budget in budgets:
        assert budget["spent_nano_usd"] + budget["held_nano_usd"] <= budget["limit_nano_usd"]
        assert budget["overrun_nano_usd"] == 0
    tenant = next(budget for budget in budgets if budget["run_id"] is None)
    assert tenant["spent_nano_usd"] == spent
    assert tenant["held_nano_usd"] == sum(hold["amount_nano_usd"] for hold in holds if hold["state"] in OPEN_STATES)
    return _check_bill(mesh.provider.meter(), events, holds)


def _check_bill(
    meter: Mapping[str, Any], events: Sequence[asyncpg.Record], holds: Sequence[asyncpg.Record]
) -> tuple[int, int, int]:
    """Each settled charge is one call that the provider served to its end; each such call is paid for or held.

    Returns: calls served, holds settled, holds that nobody could settle.
    """
    served: Counter[Bill] = Counter(
        (call["model"], call["prompt_tokens"], call["completion_tokens"])
        for call in meter["calls"]
        if call["confirmed"]
    )
    charges = [
        event for event in events if event["provider"] == "openai" and not event["assumed"] and not event["reversal"]
    ]
    settled: Counter[Bill] = Counter(
        (event["model"], event["input_tokens"], event["output_tokens"]) for event in charges
    )
    assert not settled - served, f"charged without a confirmed call: {settled - served}"
    states = [hold["state"] for hold in holds if hold["provider"] == "openai"]
    assert len({event["hold_id"] for event in charges}) == len(charges) == states.count(HoldState.SETTLED)
    unpaid: Counter[str] = Counter()
    for (model, _, _), count in (served - settled).items():
        unpaid[model] += count
    uncertain: Counter[str] = Counter(
        hold["model"] for hold in holds if hold["state"] in (HoldState.DISPATCHED, HoldState.ASSUMED)
    )
    assert not unpaid - uncertain, f"served, but neither settled nor held: {unpaid - uncertain}"
    return served.total(), settled.total(), uncertain.total()


async def _books(mesh: RunningMesh) -> tuple[list[asyncpg.Record], list[asyncpg.Record], list[asyncpg.Record]]:
    """Reads holds, budgets and the ledger in one snapshot."""
    async with connected(mesh.data_dir, "cost") as connection, connection.transaction(isolation="repeatable_read"):
        return (
            await connection.fetch("SELECT * FROM hold"),
            await connection.fetch("SELECT * FROM budget"),
            await connection.fetch("SELECT * FROM cost_event"),
        )
