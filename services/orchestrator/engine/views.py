"""What callers see of a run in memory, brought up fact by fact: a session, or a run of any other program."""

from typing import Final, Protocol

from comitia.orchestrator.v1 import journal_pb2, run_pb2, session_pb2
from services.orchestrator.engine.run import RunView
from services.orchestrator.programs import planned_turn
from services.orchestrator.programs.run_view import RunProjection
from services.orchestrator.programs.view import project

#: Facts that change nothing of what callers see of a session but its sequence.
_UNSEEN: Final = planned_turn.DECIDED | {
    *("step_started", "call_intended", "call_answered", "call_failed", "timer_started"),
}
#: Facts after which a run is written again though its state is the same. Who wants to know more reads the journal.
_WRITTEN_EVERY: Final = 256


class View(Protocol):
    """A run as callers see it."""

    def take_fact(self, fact: str | None, entry: journal_pb2.JournalEntry, sequence: int) -> object:
        """Takes the next fact.

        Args:
            fact: which one it is.
        """
        ...

    @property
    def state(self) -> int:
        """Number of its state, the same in sessions and runs."""
        ...

    @property
    def turn_count(self) -> int:
        """Turns that callers can list one by one."""
        ...

    @property
    def due(self) -> bool:
        """True when it has changed so much since `written` that it is to be written again."""
        ...

    def written(self) -> RunView:
        """Gives it as it stands, to be written."""
        ...


class SessionView:
    """Implements `View` for a session, which is written whenever anything of it changes."""

    def __init__(self) -> None:
        self._session = session_pb2.Session()
        self.due = False

    @property
    def state(self) -> int:
        """See `View.state`."""
        return self._session.state

    @property
    def turn_count(self) -> int:
        """See `View.turn_count`."""
        return self._session.turn_count

    def take_fact(self, fact: str | None, entry: journal_pb2.JournalEntry, sequence: int) -> None:
        """See `View.take_fact`."""
        project(self._session, entry, sequence)
        self.due = self.due or fact not in _UNSEEN

    def written(self) -> session_pb2.Session:
        """See `View.written`."""
        self.due = False
        session = session_pb2.Session()
        session.CopyFrom(self._session)
        return session


class SeenRun(RunProjection):
    """Implements `View` for a run, which has more steps than anybody looks at: it is written when its state changes."""

    __slots__ = ("_written", "turn_count")

    def __init__(self) -> None:
        super().__init__()
        #: See `View.turn_count`; its turns are told by its steps.
        self.turn_count = 0
        self._written: tuple[int, int] = (0, 0)

    @property
    def due(self) -> bool:
        """See `View.due`."""
        state, sequence = self._written
        return state != self.state or self.sequence - sequence >= _WRITTEN_EVERY

    def written(self) -> run_pb2.Run:
        """See `View.written`."""
        self._written = self.state, self.sequence
        run = run_pb2.Run()
        run.CopyFrom(self.run)
        return run


def view_of(started: journal_pb2.RunStarted) -> View:
    """Gives what callers see of a run, before its first fact."""
    return SeenRun() if started.HasField("run") else SessionView()
