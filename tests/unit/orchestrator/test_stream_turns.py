"""The turns of a tenant's runs in a stretch of time: each once, in order, from any point, and on record first."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from comitia.orchestrator.v1 import journal_pb2, run_pb2, session_pb2, workflow_pb2
from services.meshkit.core.audit import AuditDraft, current_draft, enter_draft
from services.meshkit.core.errors import Invalid, Unavailable
from services.meshkit.core.identity import Caller, Principal, Role, TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.testing.mesh_keys import TENANT
from services.orchestrator.domain.errors import RunArchived, TurnsNotForService
from services.orchestrator.usecases.run_access import RunAccess
from services.orchestrator.usecases.stream_turns import (
    EndOfTurns,
    RecordedTurn,
    StreamTurns,
    StreamTurnsQuery,
)
from tests.support.memory_access_gate import MemoryAccessGate

ADA = Caller(principal=Principal(tenant=TENANT, subject="key_ada", roles=frozenset({Role.AUDITOR})))
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def run_at(moment: datetime, number: int = 0) -> UUID:
    """Gives the id of a run that was started then."""
    return UUID(int=int(moment.timestamp() * 1000) << 80 | 7 << 76 | 2 << 62 | number)


def a_run(turns: int, *, workflow: str = "") -> list[journal_pb2.JournalEntry]:
    """Gives the facts of a run, some of them turns."""
    started = journal_pb2.RunStarted(session=session_pb2.Session())
    if workflow:
        name, _, version = workflow.partition("@")
        pinned = workflow_pb2.Workflow(name=name, version=version)
        started = journal_pb2.RunStarted(run=run_pb2.Run(), workflow=pinned)
    facts = [journal_pb2.JournalEntry(run_started=started)]
    for number in range(turns):
        path = f"rounds/{number}/Ada"
        facts.append(journal_pb2.JournalEntry(path=path, step_started=journal_pb2.StepStarted()))
        turn = session_pb2.Turn(turn_id=f"turn_{number}")
        facts.append(journal_pb2.JournalEntry(path=path, step_completed=journal_pb2.StepCompleted(turn=turn)))
    facts.append(journal_pb2.JournalEntry(path="nodes/x", step_completed=journal_pb2.StepCompleted()))
    return facts


@dataclass
class MemoryHistory:
    """Implements `History` and `Facts` in memory, a few facts at a time."""

    runs: dict[UUID, list[journal_pb2.JournalEntry]] = field(default_factory=dict[UUID, list[journal_pb2.JournalEntry]])
    archived: set[str] = field(default_factory=set[str])
    on_record: int = 0
    away: bool = False
    gate: MemoryAccessGate = field(default_factory=MemoryAccessGate)

    async def put_on_record(self, tenant: TenantId) -> None:
        """See `History.put_on_record`."""
        assert tenant == TENANT
        if self.away:
            raise Unavailable("postgres")
        self.on_record += 1

    async def runs_started(self, tenant: TenantId, *, after: UUID, before: UUID, most: int) -> Sequence[UUID]:
        """See `History.runs_started`."""
        assert self.on_record
        return [run for run in sorted(self.runs) if after < run < before][: min(most, 2)]

    async def entries(
        self, tenant: TenantId, run_id: str, *, after: int = 0
    ) -> Sequence[tuple[int, journal_pb2.JournalEntry]]:
        """See `Facts.entries`."""
        if run_id in self.archived:
            raise RunArchived(run_id)
        facts = next(facts for run, facts in self.runs.items() if from_uuid("run", run) == run_id)
        return list(enumerate(facts, 1))[after : after + 3]


@pytest.fixture
def history() -> MemoryHistory:
    """Gives five runs, one an hour from noon on; each has as many turns as its number."""
    runs = {run_at(NOON + timedelta(hours=number)): a_run(number) for number in range(5)}
    return MemoryHistory(runs)


async def streamed(history: MemoryHistory, **wanted: object) -> tuple[list[RecordedTurn], EndOfTurns]:
    """Asks, and gives turns and end."""
    query = replace(StreamTurnsQuery(caller=ADA), **wanted)  # type: ignore[arg-type]
    found = [one async for one in StreamTurns(history=history, facts=history, access=RunAccess(history.gate))(query)]
    end = found.pop()
    assert isinstance(end, EndOfTurns)
    return [one for one in found if isinstance(one, RecordedTurn)], end


def places(turns: Sequence[RecordedTurn]) -> list[tuple[UUID, int]]:
    return [(turn.run, turn.sequence) for turn in turns]


async def test_all_turns_come_once_the_oldest_run_first(history: MemoryHistory) -> None:
    turns, end = await streamed(history)
    assert places(turns) == [(run_at(NOON + timedelta(hours=n)), 3 + 2 * i) for n in range(5) for i in range(n)]
    assert end == EndOfTurns(place=None, unreadable=0)
    assert [turn.entry.step_completed.turn.turn_id for turn in turns[:3]] == ["turn_0", "turn_0", "turn_1"]


async def test_what_ended_a_step_without_a_turn_is_none(history: MemoryHistory) -> None:
    turns, _ = await streamed(history)
    assert all(turn.entry.step_completed.HasField("turn") for turn in turns)


async def test_a_turn_says_which_workflow_it_belongs_to(history: MemoryHistory) -> None:
    history.runs = {run_at(NOON): a_run(1, workflow="claims@1.2.0"), run_at(NOON, 1): a_run(1)}
    turns, _ = await streamed(history)
    assert [turn.workflow for turn in turns] == ["claims@1.2.0", ""]


async def test_a_stretch_of_time_has_its_first_moment_and_not_its_last(history: MemoryHistory) -> None:
    turns, _ = await streamed(history, after=NOON + timedelta(hours=1), before=NOON + timedelta(hours=3))
    assert {turn.run for turn in turns} == {run_at(NOON + timedelta(hours=n)) for n in (1, 2)}


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
async def test_pages_put_together_are_the_whole(history: MemoryHistory, size: int) -> None:
    whole, _ = await streamed(history)
    place, found = None, list[RecordedTurn]()
    for _ in range(20):
        page, end = await streamed(history, most=size, place=place)
        assert len(page) <= size
        found += page
        place = end.place
        if place is None:
            break
    assert places(found) == places(whole)


async def test_a_stream_goes_on_after_any_turn_it_gave(history: MemoryHistory) -> None:
    whole, _ = await streamed(history)
    for number, (run, sequence) in enumerate(places(whole), 1):
        rest, _ = await streamed(history, place=(run, sequence))
        assert places(rest) == places(whole)[number:]


async def test_a_run_that_went_to_the_archive_is_passed_over_and_counted(history: MemoryHistory) -> None:
    history.archived.add(from_uuid("run", run_at(NOON + timedelta(hours=2))))
    turns, end = await streamed(history)
    assert len(turns) == 8
    assert end.unreadable == 1


async def test_nothing_is_given_that_is_not_on_record(history: MemoryHistory) -> None:
    history.away = True
    with pytest.raises(Unavailable):
        await streamed(history)
    history.away = False
    await streamed(history)
    await streamed(history, before=NOON)
    assert history.on_record == 2


async def test_the_record_says_which_stretch_was_asked_for(history: MemoryHistory) -> None:
    enter_draft(AuditDraft(action="turns.export", method="StreamTurns"))
    await streamed(history, after=NOON, most=3)
    draft = current_draft()
    assert draft is not None
    assert draft.target == "turns"
    assert draft.details == {"after_time": str(NOON), "before_time": "", "most": "3"}


@pytest.mark.parametrize("peer", ["tools", "inference", "orchestrator", "gateway"])
async def test_no_service_but_policy_reads_what_was_said(history: MemoryHistory, peer: str) -> None:
    with pytest.raises(TurnsNotForService):
        await streamed(history, caller=replace(ADA, peer=peer))
    assert history.on_record == 0
    turns, _ = await streamed(history, caller=replace(ADA, peer="policy"))
    assert len(turns) == 10


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        ({"most": -1}, "page_size"),
        ({"after": NOON, "before": NOON}, "before_time"),
        ({"after": NOON, "before": NOON - timedelta(days=1)}, "before_time"),
        ({"after": datetime(1969, 1, 1, tzinfo=UTC)}, "after_time"),
        ({"before": datetime(1, 1, 1, tzinfo=UTC)}, "before_time"),
    ],
)
async def test_a_bad_stretch_is_refused_with_its_field(
    history: MemoryHistory, wanted: dict[str, object], named: str
) -> None:
    with pytest.raises(Invalid) as refused:
        await streamed(history, **wanted)
    assert refused.value.field == named


async def test_the_last_moment_that_can_be_written_is_fine_and_no_call_gives_more_than_the_most(
    history: MemoryHistory,
) -> None:
    turns, _ = await streamed(history, before=datetime(9999, 12, 31, tzinfo=UTC), most=2**31 - 1)
    assert len(turns) == 10


async def test_people_get_turns_of_the_projects_that_they_may_view_and_policy_those_of_all(
    history: MemoryHistory,
) -> None:
    history.gate.grant("key_ada", "viewer", "project:claims")
    runs = sorted(history.runs)
    history.runs[runs[2]][0].run_started.session.metadata["project"] = "claims"
    history.runs[runs[3]][0].run_started.session.metadata["project"] = "payroll"
    of_workflow = a_run(1, workflow="pay@1.0.0")
    of_workflow[0].run_started.run.metadata["project"] = "payroll"
    history.runs[run_at(NOON + timedelta(hours=5))] = of_workflow
    turns, end = await streamed(history)
    assert {turn.run for turn in turns} == {runs[1], runs[2], runs[4]}
    assert end == EndOfTurns(place=None, unreadable=0)
    turns, _ = await streamed(history, caller=replace(ADA, peer="policy"))
    assert {turn.run for turn in turns} == {*runs[1:], run_at(NOON + timedelta(hours=5))}
