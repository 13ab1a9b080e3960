"""Gives the recorded turns of a tenant's runs, for rules to be tried against history."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol
from uuid import UUID

from comitia.orchestrator.v1 import journal_pb2
from services.meshkit.core.audit import note
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Caller, TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.crypto.errors import KeyDestroyed
from services.orchestrator.domain.errors import RunArchived, TurnsNotForService
from services.orchestrator.usecases.run_access import RunAccess

DEFAULT_TURNS: Final = 1_000
MOST_TURNS: Final = 10_000
_RUNS_AT_ONCE: Final = 50
#: The only service that may ask: it tries rules.
_POLICY: Final = "policy"
#: A UUIDv7 begins with 48 bits of Unix time in milliseconds.
_TIME_SHIFT: Final = 80
_FIRST: Final = UUID(int=0)
_LAST: Final = UUID(int=(1 << 128) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamTurnsQuery:
    """Which turns are wanted."""

    caller: Caller
    #: Runs started then or later; None for all.
    after: datetime | None = None
    #: Runs started before; None for all.
    before: datetime | None = None
    #: At most so many turns; 0 for the default.
    most: int = 0
    #: Where to go on: after the fact of this sequence in this run.
    place: tuple[UUID, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedTurn:
    """A turn and where it was recorded."""

    run: UUID
    sequence: int
    workflow: str
    entry: journal_pb2.JournalEntry

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return from_uuid("run", self.run)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndOfTurns:
    """What comes after the last turn."""

    #: Where to go on; None when nothing is left.
    place: tuple[UUID, int] | None
    #: Runs whose facts nobody can read here any more.
    unreadable: int


class History(Protocol):
    """The runs of a tenant by the time of their start."""

    async def put_on_record(self, tenant: TenantId) -> None:
        """Commits the audit entry of the running call. Raises: Unavailable."""
        ...

    async def runs_started(self, tenant: TenantId, *, after: UUID, before: UUID, most: int) -> Sequence[UUID]:
        """Gives runs with ids after the one and before the other, oldest first."""
        ...


class Facts(Protocol):
    """Their facts, as they were recorded."""

    async def entries(
        self, tenant: TenantId, run_id: str, *, after: int = 0
    ) -> Sequence[tuple[int, journal_pb2.JournalEntry]]:
        """See `Journal.entries`."""
        ...


class StreamTurns:
    """Nothing is given before the call is on record."""

    def __init__(self, *, history: History, facts: Facts, access: RunAccess) -> None:
        self._history = history
        self._facts = facts
        self._access = access

    async def __call__(self, query: StreamTurnsQuery) -> AsyncGenerator[RecordedTurn | EndOfTurns]:
        """Gives turns in order and at last the end; policy gets those of all projects, people what they may read.

        Raises: Invalid, TurnsNotForService, Unavailable.
        """
        caller = query.caller
        if caller.peer is not None and caller.peer != _POLICY:
            raise TurnsNotForService(caller.peer)
        after, before, most = _bounds(query)
        tenant = caller.principal.tenant
        note(target="turns", details={"after_time": query.after or "", "before_time": query.before or "", "most": most})
        await self._history.put_on_record(tenant)
        given = unreadable = 0
        place = query.place
        if place is not None:
            # The run itself is to be looked at again, from its next fact on.
            after = max(after, UUID(int=max(place[0].int - 1, 0)))
        while runs := await self._history.runs_started(tenant, after=after, before=before, most=_RUNS_AT_ONCE):
            for run in runs:
                begin = place[1] if place is not None and place[0] == run else 0
                try:
                    async for turn in self._turns_of(caller, run, after=begin):
                        yield turn
                        given += 1
                        if given == most:
                            yield EndOfTurns(place=(run, turn.sequence), unreadable=unreadable)
                            return
                except (RunArchived, KeyDestroyed):
                    unreadable += 1
                after = run
        yield EndOfTurns(place=None, unreadable=unreadable)

    async def _turns_of(self, caller: Caller, run: UUID, *, after: int) -> AsyncGenerator[RecordedTurn]:
        run_id, seen, workflow = from_uuid("run", run), 0, ""
        while batch := await self._facts.entries(caller.principal.tenant, run_id, after=seen):
            for sequence, entry in batch:
                seen = sequence
                if entry.HasField("run_started") and not await self._may_read(caller, entry.run_started):
                    return
                if entry.HasField("run_started") and entry.run_started.HasField("workflow"):
                    workflow = f"{entry.run_started.workflow.name}@{entry.run_started.workflow.version}"
                if sequence > after and entry.HasField("step_completed") and entry.step_completed.HasField("turn"):
                    yield RecordedTurn(run=run, sequence=sequence, workflow=workflow, entry=entry)

    async def _may_read(self, caller: Caller, started: journal_pb2.RunStarted) -> bool:
        if caller.peer is not None:
            return True
        if started.HasField("run"):
            return bool(await self._access.readable(caller, (started.run,)))
        return bool(await self._access.readable(caller, (started.session,)))


def _bounds(query: StreamTurnsQuery) -> tuple[UUID, UUID, int]:
    """Gives the ids between which the runs lie, both left out, and how many turns are wanted at most."""
    if query.most < 0:
        raise Invalid("page_size", f"must be 0 (default {DEFAULT_TURNS}) to {MOST_TURNS}")
    if query.after is not None and query.before is not None and query.after >= query.before:
        raise Invalid("before_time", "must be later than after_time")
    after = _FIRST if query.after is None else _id_at(query.after, "after_time")
    before = _LAST if query.before is None else _id_at(query.before, "before_time")
    return UUID(int=max(after.int - 1, 0)), before, min(query.most, MOST_TURNS) or DEFAULT_TURNS


def _id_at(moment: datetime, field: str) -> UUID:
    """Gives the lowest id of what was made then. Raises: Invalid: ids begin with 1970."""
    milliseconds = int(moment.timestamp() * 1000)
    if milliseconds < 0:
        raise Invalid(field, "must be a time from 1970 on")
    return UUID(int=milliseconds << _TIME_SHIFT)
