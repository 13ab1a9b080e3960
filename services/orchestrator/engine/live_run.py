"""One run in the memory of its shard's owner: applies what arrived, and says what is to be written and then called."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from comitia.orchestrator.v1 import journal_pb2, session_pb2
from services.meshkit.telemetry.logs import logger
from services.orchestrator.domain.errors import RunDiverged
from services.orchestrator.engine import faults
from services.orchestrator.engine.facts import Beginning, Replay, advance, begun
from services.orchestrator.engine.faults import EngineFault
from services.orchestrator.engine.run import (
    SIGNAL,
    HandedDown,
    ModelCall,
    OwnedRun,
    RunCommand,
    RunWrite,
    follow,
    give_up,
)
from services.orchestrator.engine.run_calls import CallKey, RunCalls
from services.orchestrator.engine.run_timers import RunTimers
from services.orchestrator.engine.views import View, view_of
from services.orchestrator.programs import run as program
from services.orchestrator.programs.commands import MODEL_CALLS
from services.orchestrator.programs.view import ENGINE_FAULT, TERMINAL_STATES

log = logger(__name__)

#: Recorded commands that are remembered, for those that were read just before they were deleted.
_REMEMBERED_COMMANDS: Final = 64
_WAITING: Final = session_pb2.SESSION_STATE_WAITING

Stranding = RunDiverged | program.UnknownProgram | EngineFault
#: A call, and a fact about it: the one that asks for it, or the one that settles it.
Call = tuple[CallKey, journal_pb2.JournalEntry]
#: What a run is told: what became of one of its calls, any other fact from outside, or what somebody asks of it.
Arrival = Call | journal_pb2.JournalEntry | RunCommand


class LiveRun:
    """Changed by the lane that has it, and by nobody else."""

    # There may be very many, and each of their steps looks at most of this.
    __slots__ = (
        *("_asked", "_calls", "_found", "_handed_down", "_held", "_inbox", "_later", "_noted"),
        *("_only_calls", "_park_noted", "_parked", "_parked_steps", "_project", "_recorded"),
        *("_replay", "_settled", "_speakers", "_started", "_state", "_stranded", "_timers", "_told", "_unrecorded"),
        *("_view", "_waiting", "dry", "ended", "gone", "progressed", "recorded_sequence", "run", "sequence"),
    )

    def __init__(self, run: OwnedRun) -> None:
        self.run = run
        #: Of its last fact, and of the last one that is recorded.
        self.sequence = self.recorded_sequence = 0
        self._state = program.RunState()
        self._view: View = view_of(journal_pb2.RunStarted())
        #: What arrived and is not decided yet, in order: what a command means depends on what came before it.
        self._inbox: list[Arrival] = []
        self._calls = RunCalls()
        #: Sequence of the last fact that was there when it was taken up; 0 for a run that was begun here.
        self._found = 0
        #: What its sub-runs are told, until a write says so.
        self._handed_down: list[HandedDown] = []
        #: Who speaks in the turns in progress, by path.
        self._speakers: dict[str, str] = {}
        self._timers = RunTimers()
        #: The moment that the database wakes it at, when it rests.
        self._noted: datetime | None = None
        self._started: journal_pb2.RunStarted | None = None
        #: As its first fact says, once somebody has asked for it.
        self._project: str | None = None
        #: True for a fork whose effects are not to be made.
        self.dry = False
        #: Between RunWaiting and RunAdvanced.
        self._waiting = False
        #: Between RunParked and RunResumed, which may be paused meanwhile.
        self._held: journal_pb2.RunParked | None = None
        #: Steps that failed in all their attempts and wait for somebody to let the run go on.
        self._parked_steps: set[str] = set()
        #: Steps whose calls are being tried again, and whether a fact says so.
        self._parked: set[str] = set()
        self._park_noted = False
        #: Commands that came and are not recorded, and the latest that were.
        self._told: set[UUID] = set()
        self._recorded: deque[UUID] = deque(maxlen=_REMEMBERED_COMMANDS)
        #: Why this release cannot go on with the run; None when it can.
        self._stranded: Stranding | None = None
        #: Signals that came meanwhile.
        self._later: list[RunCommand] = []
        self._replay: Replay | None = Replay(run.run_id)
        #: True once more is recorded than was found.
        self.progressed = False
        #: Writes that are not recorded yet.
        self._unrecorded = 0
        #: True once the lane has let go of it; nobody writes to it any more.
        self.gone = False
        #: True once the run has its final state.
        self.ended = False
        #: True while the facts since the latest write are calls and their answers.
        self._only_calls = True
        #: The calls of models whose outcomes are among them.
        self._settled: list[ModelCall] = []
        #: The calls that they ask for; None when all that wait for their outcome are to be made, if nobody does.
        self._asked: list[journal_pb2.JournalEntry] | None = []

    @property
    def stranded(self) -> bool:
        """True for a run with which this release cannot go on: it only waits for somebody."""
        return self._stranded is not None

    @property
    def unread(self) -> bool:
        """True when something has arrived that is not decided yet."""
        return bool(self._inbox)

    @property
    def paused(self) -> bool:
        """True while it makes no new call."""
        return self._timers.paused

    @property
    def resting(self) -> bool:
        """True when it need not stay in memory: it has ended, or waits for a command or a moment."""
        if self._unrecorded or self._inbox:
            return False
        if self.ended:
            return True
        halted = self._stranded is not None or self._timers.paused
        if self._calls and not halted:
            return False  # as most runs
        if self._calls.in_flight or self._told:
            return False
        return halted or self._view.state == _WAITING

    @property
    def parent_run_id(self) -> str:
        """The run that started it as a step; empty for a run that somebody started."""
        return self.started.run.parent_run_id

    @property
    def project(self) -> str:
        """The project that it belongs to; empty for none."""
        if self._project is None:
            started = self.started
            seen = started.run if started.HasField("run") else started.session
            self._project = seen.metadata.get("project", "")
        return self._project

    @property
    def wake_time(self) -> datetime | None:
        """When the next of its timers ends, or its deadline."""
        return None if self.ended or self._stranded is not None else self._timers.next

    @property
    def outstanding(self) -> Sequence[journal_pb2.JournalEntry]:
        """The calls that recorded facts ask for and none has answered."""
        return self._calls.until(self.recorded_sequence)

    @property
    def remembered(self) -> int:
        """How many commands it keeps in mind."""
        return len(self._told) + len(self._recorded)

    @property
    def started(self) -> journal_pb2.RunStarted:
        """The run's first fact."""
        if self._started is None:
            raise ValueError("a run is driven after its first fact")
        return self._started

    def begin(self, started: journal_pb2.RunStarted, at: Timestamp) -> RunWrite:
        """Makes the first facts of a new run."""
        return self.begin_with(begun(started, at))

    def begin_with(self, beginning: Beginning) -> RunWrite:
        """Takes the first facts of a new run."""
        self._replay = None
        self._state, before = beginning.state, (self.sequence + 1, self._view.turn_count)
        self._take(beginning.entries)
        return self._write(before, beginning.entries, ())

    def read(self, entries: Iterable[journal_pb2.JournalEntry]) -> None:
        """Takes recorded facts, in order, before `recovered`."""
        found = list(entries)
        for entry in found:
            self._stranded = self._stranded or self._fault_of(entry)
        self._take(found)
        self.recorded_sequence = self.sequence
        self._handed_down.clear()
        self._asked = []
        self._noted = self._timers.next

    def recovered(self) -> None:
        """Ends the reading of the journal; a run that does not follow from its program is stranded."""
        self._found = self.sequence
        self._stranded = self._stranded or self._fault_of(None)
        replay, self._replay = self._replay, None
        if self._stranded is not None:
            self._strand(self._stranded, "cancel it, or run a release that can go on with it")
            return
        if replay is not None:
            self._state = replay.state
        if self._held is not None and self._held.reason == ENGINE_FAULT:
            self._stranded = EngineFault(self._held.message)
            return
        self._park_noted = self._held is not None
        if self._park_noted and not self._calls and not self._parked_steps:
            # It was stranded while it waited, and is not any more: there is no call whose answer would say so.
            self._park_noted = False
            self._put(journal_pb2.JournalEntry(run_resumed=journal_pb2.RunResumed(waiting=self._waiting)))

    def fail(self, fault: EngineFault) -> None:
        """Leaves it where it stands, after `recovered`, until somebody has it tried again or ends it."""
        if self._stranded is None and not self.ended:
            self._strand(fault)

    def tell(self, commands: Sequence[RunCommand]) -> None:
        """Hands over commands that wait for this run; ones that came before are ignored."""
        for command in commands:
            if command.command_id in self._told or command.command_id in self._recorded:
                continue
            self._told.add(command.command_id)
            if self._stranded is not None and command.kind == SIGNAL:
                self._later.append(command)
                continue  # it waits until the run goes on
            self._inbox.append(command)

    def _asked_for(self, command: RunCommand) -> journal_pb2.JournalEntry | None:
        """Writes a command as the fact that it becomes; None when it means nothing where the run is now."""
        entry = journal_pb2.JournalEntry()
        match command.kind:
            case "cancel" if self._stranded is not None:
                entry.run_abandoned.CopyFrom(journal_pb2.RunAbandoned(by=command.by, reason=self._stranded.reason))
            case "resume" if isinstance(self._stranded, EngineFault):
                entry.run_resumed.CopyFrom(journal_pb2.RunResumed(waiting=self._waiting, by=command.by))
                self._go_on(command)
            case "pause" if isinstance(self._stranded, EngineFault) and not self._timers.paused:
                # It makes no call anyway, but its sub-runs do.
                entry.run_paused.by = command.by
                self._hand_down(command)
            case _ if self._stranded is not None:
                return None
            case "cancel":
                entry.run_cancelling.by = command.by
            case "advance" if self._waiting and not self._timers.paused:
                entry.run_advanced.by = command.by
            case "pause" if not self._timers.paused:
                entry.run_paused.by = command.by
                self._hand_down(command)
            case "resume" if self._timers.paused or self._parked_steps:
                entry = self._continued(command)
            case kind if kind == SIGNAL:
                entry.signal_received.MergeFromString(command.payload)
            case _:
                return None
        return entry

    def _go_on(self, command: RunCommand) -> None:
        """Tries again what failed by a fault of ours, with all that waited for it."""
        self._stranded = None
        self._park_noted = False
        self._parked.clear()
        if self._timers.paused or self._parked_steps:
            self._put(self._continued(command))
        later, self._later = self._later, []
        self._inbox += later

    def _hand_down(self, command: RunCommand) -> None:
        """Has the sub-runs that it waits for do the same."""
        self._handed_down += [(sub_run_id, follow(self.run, command)) for sub_run_id in self._calls.sub_runs]

    def _continued(self, command: RunCommand) -> journal_pb2.JournalEntry:
        if self._timers.paused:
            self._hand_down(command)
        return journal_pb2.JournalEntry(run_continued=journal_pb2.RunContinued(by=command.by, waiting=self._waiting))

    def awake(self, now: datetime) -> None:
        """Notes that moments have come: of its timers, and of its deadline."""
        if self.ended or self.stranded:
            return
        for path, timer in self._timers.due(now):
            self._put(journal_pb2.JournalEntry(path=path, timer_fired=journal_pb2.TimerFired(timer=timer)))
        if self._timers.deadline_passed(now):
            self._put(journal_pb2.JournalEntry(deadline_passed=journal_pb2.DeadlinePassed()))

    def answered(self, key: CallKey, entry: journal_pb2.JournalEntry) -> None:
        """Takes the outcome of a call, a CallAnswered or CallFailed fact."""
        self._unpark(key[0])
        self._inbox.append((key, entry))

    def parked(self, path: str, reason: str, message: str) -> None:
        """Notes that a call cannot go on for now and is being tried again."""
        self._parked.add(path)
        if not self._park_noted:
            self._park_noted = True
            self._put(journal_pb2.JournalEntry(run_parked=journal_pb2.RunParked(reason=reason, message=message)))

    def resumed(self, path: str) -> None:
        """Notes that a call which was parked goes on."""
        self._unpark(path)

    def advance(self, at: Timestamp, enough: Callable[[], bool] = lambda: False) -> RunWrite | None:
        """Applies what has arrived, with all that follows from it; None when nothing came of it.

        What it gives has to be recorded, in order, or the run dropped.

        Args:
            enough: asked after each; the rest is left for the next time, and `unread` says so.
        """
        inbox, self._inbox = self._inbox, []
        before = self.sequence + 1, self._view.turn_count
        done: list[journal_pb2.JournalEntry] = []
        commands: list[UUID] = []
        for number, arrived in enumerate(inbox, 1):
            outside = self._news(arrived)
            if outside is not None:
                done += self._decided(outside, at)
            if isinstance(arrived, RunCommand):
                commands.append(arrived.command_id)
            if number < len(inbox) and enough():
                self._inbox[:0] = inbox[number:]
                break
        return self._write(before, done, commands) if done or commands else None

    def recorded(self, write: RunWrite) -> None:
        """Notes that what `advance` gave is recorded."""
        self._unrecorded -= 1
        self.recorded_sequence = write.last_sequence
        if write.commands:
            self._told.difference_update(write.commands)
            self._recorded.extend(write.commands)
        self.progressed = True

    def due(self, asked: Iterable[journal_pb2.JournalEntry]) -> Sequence[Call]:
        """Gives those of these calls that nobody makes yet; they count as being made from now on.

        Args:
            asked: recorded facts that ask for them.
        """
        if self._timers.paused or self._stranded is not None:
            return ()
        due: list[Call] = []
        for entry in asked:
            key = entry.path, entry.call_intended.call_index
            if self._calls.begin(key):
                due.append((key, entry))
        return due

    def waits_for_runs(self) -> Sequence[CallKey]:
        """Gives the calls being made that are runs of their own."""
        return self._calls.of_sub_runs

    def made_before(self, key: CallKey) -> bool:
        """Says whether whoever drove the run before may have made a call that `due` gave."""
        return self._calls.asked_at(key) <= self._found

    def left_out(self, key: CallKey) -> None:
        """Notes that a call which `due` gave is not being made yet."""
        self._calls.leave_out(key)

    def given_up(self) -> Sequence[CallKey]:
        """Gives the calls that recorded facts have given up, once; others go on until theirs is recorded (INV-1)."""
        return self._calls.given_up(self.recorded_sequence)

    def speaker(self, path: str) -> str:
        """Gives the agent whose turn is in progress at a place; empty when it is no turn."""
        return self._speakers.get(path, "")

    def _decided(self, outside: journal_pb2.JournalEntry, at: Timestamp) -> Sequence[journal_pb2.JournalEntry]:
        """Applies a fact from outside, with all that follows from it."""
        if self._stranded is None:
            self._state, facts = advance(self._state, (outside,), at)
        else:
            outside.record_time.CopyFrom(at)
            facts = [outside]
        self._take(facts)
        return facts

    def _write(
        self,
        before: tuple[int, int],
        entries: Sequence[journal_pb2.JournalEntry],
        commands: Sequence[UUID],
    ) -> RunWrite:
        """Says what is to be written of facts that were applied.

        Args:
            before: sequence of its next fact, and number of its turns, as it stood.
        """
        first, turns_before = before
        seen = self._view
        self._unrecorded += 1
        view, wake_time = None, self.wake_time
        # The moment lies beside the view. It matters to runs that leave the memory; the others keep it there.
        wakes_anew = wake_time != self._noted and (
            seen.state == _WAITING or self._timers.paused or self._stranded is not None
        )
        if wakes_anew or seen.due:
            view, self._noted = seen.written(), wake_time
        turns: Sequence[tuple[int, int]] = ()
        if seen.turn_count != turns_before:
            numbers = range(turns_before + 1, seen.turn_count + 1)
            places = (at for at, entry in enumerate(entries, first) if entry.HasField("step_completed"))
            turns = list(zip(numbers, places, strict=False))
        write = RunWrite(
            run=self.run,
            first_sequence=first,
            entries=entries,
            view=view,
            wake_time=wake_time,
            turns=turns,
            commands=commands,
            handed_down=self._handed_down,
            calls=self._asked,
            only_calls=self._only_calls,
            settled=self._settled,
        )
        self._handed_down, self._asked, self._only_calls, self._settled = [], [], True, []
        return write

    def _fault_of(self, entry: journal_pb2.JournalEntry | None) -> Stranding | None:
        """Replays the next fact, or the end of the journal; gives what is wrong with it."""
        replay = self._replay
        if replay is None:
            raise ValueError("the journal was read to its end")
        try:
            replay.finish() if entry is None else replay.feed(entry)
        except (RunDiverged, program.UnknownProgram) as fault:
            return fault
        except (ValueError, LookupError, DecodeError):
            # A fact that the program cannot even read does not follow from it either.
            log.exception("a recorded fact cannot be replayed", run_id=replay.run_id, sequence=replay.sequence)
            return RunDiverged(replay.run_id, replay.sequence)
        return None

    def _strand(self, fault: Stranding, advice: str = "") -> None:
        """Makes no call any more, and says so once. The facts stay as they are: they are the evidence."""
        self._stranded = fault
        if self._held is None or self._held.reason != fault.reason:
            message = f"{fault}; {advice}" if advice else str(fault)
            faults.parked(self.run.run_id, fault.reason, message)
            self._put(journal_pb2.JournalEntry(run_parked=journal_pb2.RunParked(reason=fault.reason, message=message)))

    def _news(self, arrived: Arrival) -> journal_pb2.JournalEntry | None:
        """Gives the fact that something becomes; None for a further result of a call (INV-3), and once it has ended."""
        if self.ended:
            return None
        if isinstance(arrived, tuple):
            key, outcome = arrived
            return outcome if key in self._calls and self._stranded is None else None
        return self._asked_for(arrived) if isinstance(arrived, RunCommand) else arrived

    def _take(self, entries: Sequence[journal_pb2.JournalEntry]) -> None:
        """Applies facts to the view and to the calls that are still to be answered."""
        for entry in entries:
            self.sequence = sequence = self.sequence + 1
            fact = entry.WhichOneof("fact")
            if fact == "run_started":
                self._view = view_of(entry.run_started)
            self._view.take_fact(fact, entry, sequence)
            # Most facts are calls, of which come no timers and no ends.
            if fact == "call_intended":
                self._calls.ask(entry, sequence)
                if self._asked is not None:
                    self._asked.append(entry)
            elif fact == "call_answered":
                self._settle(entry.path, entry.call_answered.call_index)
            else:
                self._only_calls = False
                self._take_other(fact, entry)

    def _settle(self, path: str, index: int) -> None:
        """Takes the outcome of a call. Of a call that a model was asked, its place is told once that is recorded."""
        asked = self._calls.settle((path, index))
        if asked is not None and asked.kind in MODEL_CALLS and not self.dry:
            self._settled.append(ModelCall(path, asked.attempt_group, index))

    def _take_other(self, fact: str | None, entry: journal_pb2.JournalEntry) -> None:
        """Applies a fact that is neither a call nor its answer."""
        self._timers.take(entry)
        match fact:
            case "call_failed":
                self._settle(entry.path, entry.call_failed.call_index)
            case "step_started":
                self._speakers[entry.path] = entry.step_started.agent
            case "step_completed" | "step_failed" | "step_skipped":
                self._give_up(entry.path)
                self._speakers.pop(entry.path, None)
            case "timer_fired":
                self._give_up(entry.path)
            case "step_parked":
                self._give_up(entry.path)
                self._parked_steps.add(entry.path)
            case "run_continued":
                self._parked_steps.clear()
                self._asked = None
            case "run_started":
                self._start(entry.run_started)
            case "run_forked":
                self._start(entry.run_forked.started)
            case "run_waiting":
                self._waiting = True
            case "run_advanced":
                self._waiting = False
            case "run_parked":
                self._held = entry.run_parked
            case "run_resumed":
                self._held = None
                self._asked = None
            case "run_ended" | "run_abandoned":
                self._handed_down += [(sub_run_id, give_up(self.run)) for sub_run_id in self._calls.sub_runs]
                self._speakers.clear()
                self._calls.end()
                self.ended = self._view.state in TERMINAL_STATES
            case _:
                pass

    def _start(self, started: journal_pb2.RunStarted) -> None:
        self._started, self._project = started, None
        self.dry = started.fork.dry_effects

    def _give_up(self, path: str) -> None:
        """Waits no longer for the call of a step that has ended, or whose time is up."""
        if self._calls.waits(path):
            self._unpark(path)
            if sub_run_id := self._calls.give_up(path, self.sequence):
                self._handed_down.append((sub_run_id, give_up(self.run)))

    def _unpark(self, path: str) -> None:
        self._parked.discard(path)
        if self._park_noted and not self._parked:
            self._park_noted = False
            self._put(journal_pb2.JournalEntry(run_resumed=journal_pb2.RunResumed()))

    def _put(self, entry: journal_pb2.JournalEntry) -> None:
        self._inbox.append(entry)
