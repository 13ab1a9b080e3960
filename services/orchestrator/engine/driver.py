"""Drives one run: applies facts, commits them, and only then makes the calls that they ask for (INV-1)."""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from comitia.orchestrator.v1 import journal_pb2, session_pb2, session_service_pb2
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import ErrorKind, MeshError
from services.meshkit.core.failpoints import failpoint
from services.meshkit.telemetry.logs import logger
from services.orchestrator.domain.errors import RunDiverged
from services.orchestrator.engine.facts import Replay, advance
from services.orchestrator.engine.ports import Calls, LiveEvents, RunStore
from services.orchestrator.engine.run import Commit, OwnedRun, RunCommand
from services.orchestrator.programs import run as program
from services.orchestrator.programs.view import TERMINAL_STATES, project

log = logger(__name__)

#: Pause before a commit that the database did not take is tried again.
_COMMIT_RETRY_SECONDS: Final = 0.2
#: Recorded commands that are remembered, for those that were read just before they were deleted.
_REMEMBERED_COMMANDS: Final = 64

#: Place of a call in its run.
CallKey = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverParts:
    """What every driver of a replica shares."""

    store: RunStore
    calls: Calls
    live: LiveEvents
    clock: Clock


@dataclass(slots=True)
class _Inbox:
    """What arrived for a run and is not recorded yet."""

    entries: list[journal_pb2.JournalEntry] = field(default_factory=list[journal_pb2.JournalEntry])
    commands: list[UUID] = field(default_factory=list[UUID])
    arrived: asyncio.Event = field(default_factory=asyncio.Event)


class RunDriver:
    """The only writer of one run while its lease holds. `drive` ends when the run has ended or is taken away."""

    def __init__(self, run: OwnedRun, parts: DriverParts) -> None:
        self.run = run
        self._parts = parts
        self._state = program.RunState()
        self._view = session_pb2.Session()
        self._sequence = 0
        self._inbox = _Inbox()
        self._outstanding: dict[CallKey, journal_pb2.JournalEntry] = {}
        self._in_flight: dict[CallKey, asyncio.Task[None]] = {}
        #: Steps whose calls are being tried again, and whether a fact says so.
        self._parked: set[str] = set()
        self._park_noted = False
        #: Commands in the inbox, and the latest that were recorded.
        self._told: set[UUID] = set()
        self._recorded: deque[UUID] = deque(maxlen=_REMEMBERED_COMMANDS)
        #: Why this release cannot go on with the run; None when it can.
        self._stranded: RunDiverged | program.UnknownProgram | None = None
        self._ready = False
        #: True once what is recorded is more than what this driver found.
        self.progressed = False

    @property
    def ended(self) -> bool:
        """True once the run has its final state."""
        return self._view.state in TERMINAL_STATES

    @property
    def stranded(self) -> bool:
        """True for a run with which this release cannot go on: it only waits for somebody to end it."""
        return self._stranded is not None

    @property
    def remembered(self) -> int:
        """How many commands it keeps in mind."""
        return len(self._told) + len(self._recorded)

    def adopt(self, state: program.RunState, first: Commit) -> None:
        """Takes over a run that was just recorded, without reading it back."""
        self._state = state
        self._take(first.entries)
        self._ready = self.progressed = True

    async def recover(self) -> None:
        """Reads the journal and rebuilds where the run is; one that does not follow from its program is stranded."""
        replay = Replay(self.run.run_id)
        while batch := await self._parts.store.entries(self.run.tenant, self.run.run_id, after=self._sequence):
            for _, entry in batch:
                self._stranded = self._stranded or _fault_of(replay, entry)
            self._take([entry for _, entry in batch])
        self._stranded = self._stranded or _fault_of(replay, None)
        self._ready = True
        parked = self._view.state == session_pb2.SESSION_STATE_PARKED
        if self._stranded is not None:
            self._strand(self._stranded, shown=parked and self._view.state_reason == self._stranded.reason)
            return
        self._state = replay.state
        self._park_noted = parked
        if parked and not self._outstanding:
            # It was stranded while it waited, and is not any more: there is no call whose answer would say so.
            waiting = self._state.session is not None and self._state.session.waiting
            self._park_noted = False
            self._put(journal_pb2.JournalEntry(run_resumed=journal_pb2.RunResumed(waiting=waiting)))

    def _strand(self, fault: RunDiverged | program.UnknownProgram, *, shown: bool) -> None:
        """Makes no call any more, and says so once. The facts stay as they are: they are the evidence."""
        log.error("run cannot go on in this release", run_id=self.run.run_id, cause=str(fault))
        self._outstanding.clear()
        if not shown:
            message = f"{fault}; cancel the session, or run a release that can go on with it"
            self._put(journal_pb2.JournalEntry(run_parked=journal_pb2.RunParked(reason=fault.reason, message=message)))

    def tell(self, commands: Sequence[RunCommand]) -> None:
        """Hands over commands that wait for this run; ones that came before are ignored.

        Before `recover` has ended they go on waiting, for what they mean depends on where the run is.
        """
        for command in commands if self._ready else ():
            if command.command_id in self._told or command.command_id in self._recorded:
                continue
            self._told.add(command.command_id)
            self._inbox.commands.append(command.command_id)
            self._inbox.arrived.set()
            entry = journal_pb2.JournalEntry()
            if command.kind == "cancel" and self._stranded is not None:
                entry.run_abandoned.CopyFrom(journal_pb2.RunAbandoned(by=command.by, reason=self._stranded.reason))
            elif command.kind == "cancel":
                entry.run_cancelling.by = command.by
            elif self._view.state == session_pb2.SESSION_STATE_WAITING:
                entry.run_advanced.by = command.by
            else:
                continue
            self._inbox.entries.append(entry)

    async def drive(self) -> None:
        """Goes on with the run until it has ended.

        Raises: LeaseLost: another replica drives it now. CancelledError: this replica stops; calls are cancelled and
        will be made again by whoever goes on.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                while not self.ended:
                    self._dispatch(tasks)
                    await self._tell_watchers()
                    await self._inbox.arrived.wait()
                    await self._commit_inbox()
                for task in self._in_flight.values():
                    task.cancel()
        finally:
            await self._tell_watchers()

    def _dispatch(self, tasks: asyncio.TaskGroup) -> None:
        for key, intended in self._outstanding.items():
            if key not in self._in_flight:
                self._in_flight[key] = tasks.create_task(self._call(key, intended), name=f"call {key}")

    async def _call(self, key: CallKey, intended: journal_pb2.JournalEntry) -> None:
        """Makes one call and puts its outcome into the inbox."""
        path, index = key
        kind = intended.call_intended.kind
        entry = journal_pb2.JournalEntry(path=path)
        started = self._started()
        await failpoint("orchestrator.before_call")
        try:
            answer = await self._parts.calls.make(self.run, started, intended, self)
            entry.call_answered.CopyFrom(
                journal_pb2.CallAnswered(
                    call_index=index, kind=kind, response=answer.SerializeToString(deterministic=True)
                )
            )
        except MeshError as error:
            log.info("call failed", run_id=self.run.run_id, path=path, kind=kind, reason=error.reason)
            entry.call_failed.CopyFrom(
                journal_pb2.CallFailed(call_index=index, kind=kind, reason=error.reason, message=error.message)
            )
        await failpoint("orchestrator.after_answer")
        self._unpark(path)
        self._put(entry)

    async def _commit_inbox(self) -> None:
        """Records everything that has arrived, with all that follows from it, in one transaction."""
        inbox, self._inbox = self._inbox, _Inbox()
        outside = [entry for entry in inbox.entries if self._is_news(entry)]
        if not outside and not inbox.commands:
            return
        at = Timestamp()
        at.FromDatetime(self._parts.clock.now())
        if self._stranded is None:
            self._state, entries = advance(self._state, outside, at)
        else:
            entries = _stamped(outside, at)
        first = self._sequence + 1
        self._take(entries)
        commit = Commit(first_sequence=first, entries=tuple(entries), view=self._view, commands=tuple(inbox.commands))
        await failpoint("orchestrator.before_commit")
        await self._write(commit)
        self.progressed = True
        self._told.difference_update(inbox.commands)
        self._recorded.extend(inbox.commands)
        await failpoint("orchestrator.after_commit")

    async def _write(self, commit: Commit) -> None:
        """Commits, patiently while the database is away: the lease decides how long this replica may try.

        A commit whose outcome was lost on the way is refused the second time by the journal's key; the run is then
        taken up again from what is recorded.
        """
        while True:
            try:
                await self._parts.store.commit(self.run, commit)
            except MeshError as error:
                if error.kind not in (ErrorKind.UNAVAILABLE, ErrorKind.EXHAUSTED):
                    raise
                log.warning("a commit waits for the database", run_id=self.run.run_id, cause=error.message)
                await self._parts.clock.sleep(_COMMIT_RETRY_SECONDS)
            else:
                return

    def _is_news(self, entry: journal_pb2.JournalEntry) -> bool:
        """Refuses a second result of a call (INV-3), and anything for a run that has ended."""
        match entry.WhichOneof("fact"):
            case "call_answered":
                return not self.ended and (entry.path, entry.call_answered.call_index) in self._outstanding
            case "call_failed":
                return not self.ended and (entry.path, entry.call_failed.call_index) in self._outstanding
            case _:
                return not self.ended

    def _take(self, entries: Sequence[journal_pb2.JournalEntry]) -> None:
        """Applies facts to the view and to the calls that are still to be answered."""
        for entry in entries:
            self._sequence += 1
            project(self._view, entry, self._sequence)
            match entry.WhichOneof("fact"):
                case "call_intended":
                    self._outstanding[(entry.path, entry.call_intended.call_index)] = entry
                case "call_answered":
                    self._settle_call((entry.path, entry.call_answered.call_index))
                case "call_failed":
                    self._settle_call((entry.path, entry.call_failed.call_index))
                case "run_ended" | "run_abandoned":
                    self._outstanding.clear()
                case _:
                    pass

    def _settle_call(self, key: CallKey) -> None:
        self._outstanding.pop(key, None)
        self._in_flight.pop(key, None)

    def _started(self) -> journal_pb2.RunStarted:
        if self._state.session is None:
            raise ValueError("a run is driven after its first fact")
        return self._state.session.started

    async def delta(self, path: str, text: str, *, restart: bool = False) -> None:
        """See `Outcome.delta`."""
        event = session_service_pb2.WatchSessionResponse(
            sequence=self._sequence,
            text_delta=session_service_pb2.TextDelta(path=path, text=text, restart=restart),
        )
        event.event_time.FromDatetime(self._parts.clock.now())
        await self._parts.live.publish(self.run.tenant, self.run.run_id, event)

    def parked(self, path: str, reason: str, message: str) -> None:
        """See `Outcome.parked`."""
        self._parked.add(path)
        if not self._park_noted:
            self._park_noted = True
            self._put(journal_pb2.JournalEntry(run_parked=journal_pb2.RunParked(reason=reason, message=message)))

    def _unpark(self, path: str) -> None:
        self._parked.discard(path)
        if self._park_noted and not self._parked:
            self._park_noted = False
            self._put(journal_pb2.JournalEntry(run_resumed=journal_pb2.RunResumed()))

    def _put(self, entry: journal_pb2.JournalEntry) -> None:
        self._inbox.entries.append(entry)
        self._inbox.arrived.set()

    async def _tell_watchers(self) -> None:
        event = session_service_pb2.WatchSessionResponse(sequence=self._sequence)
        await self._parts.live.publish(self.run.tenant, self.run.run_id, event)


def _fault_of(replay: Replay, entry: journal_pb2.JournalEntry | None) -> RunDiverged | program.UnknownProgram | None:
    """Feeds the next fact, or the end of the journal; gives what is wrong with it."""
    try:
        replay.finish() if entry is None else replay.feed(entry)
    except (RunDiverged, program.UnknownProgram) as fault:
        return fault
    except (ValueError, LookupError, DecodeError):
        # A fact that the program cannot even read does not follow from it either.
        log.exception("a recorded fact cannot be replayed", run_id=replay.run_id, sequence=replay.sequence)
        return RunDiverged(replay.run_id, replay.sequence)
    return None


def _stamped(entries: Iterable[journal_pb2.JournalEntry], at: Timestamp) -> list[journal_pb2.JournalEntry]:
    done = list(entries)
    for entry in done:
        entry.record_time.CopyFrom(at)
    return done
