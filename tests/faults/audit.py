"""What must hold after any fault: of sessions, of the journal, of memory, of money and of the provider's bill."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from comitia.orchestrator.v1 import session_pb2
from comitia_sdk.aio import AsyncClient
from services.orchestrator.programs.view import project
from tests.faults.books import SWEEP, read_books, until_settled
from tests.faults.journals import journals
from tests.faults.workload import AGENTS
from tests.support.mesh import RunningMesh


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
    #: Holds that nobody could settle, still dispatched or charged at their bound: state, when it was made, what for.
    left: tuple[str, ...]


async def audit(mesh: RunningMesh, client: AsyncClient, sessions: Sequence[session_pb2.Session]) -> Findings:
    """Checks everything, once all sessions have ended.

    Raises: AssertionError: something was lost, doubled, or not paid for.
    """
    turns = {session.session_id: await _check_session(client, session) for session in sessions}
    await _check_journals(mesh, sessions)
    memories = [await _check_memories(client, run_id, of_run) for run_id, of_run in turns.items()]
    await until_settled(mesh)
    bill = (await read_books(mesh)).checked(within=SWEEP)
    return Findings(
        sessions=len(sessions),
        turns=sum(map(len, turns.values())),
        memories=sum(memories),
        served=bill.served,
        settled=bill.settled,
        left=bill.left,
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
