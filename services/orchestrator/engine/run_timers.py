"""The moments that a run waits for, told from its facts alone: one timer for each path, and the deadline of the run.

While a run is paused its timers stand still; its deadline does not.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush

from comitia.orchestrator.v1 import journal_pb2


class RunTimers:
    """Changed by facts only, so that whoever reads a journal waits for the same moments."""

    __slots__ = ("_deadline", "_ends", "_heap", "_paused_at", "next", "paused")

    def __init__(self) -> None:
        #: Name and end of the timer of each path.
        self._ends: dict[str, tuple[str, datetime]] = {}
        #: The same by time. Those that are not in `_ends` any more are passed over.
        self._heap: list[tuple[datetime, str]] = []
        self._deadline: datetime | None = None
        self._paused_at: datetime | None = None
        #: True between RunPaused and RunContinued.
        self.paused = False
        #: The next moment; None when there is none. Each write of the run asks for it, and few change it.
        self.next: datetime | None = None

    def due(self, now: datetime) -> Sequence[tuple[str, str]]:
        """Takes out path and name of the timers that have ended; their facts say so from now on."""
        ended = list[tuple[str, str]]()
        while not self.paused and self._heap and self._heap[0][0] <= now:
            end, path = heappop(self._heap)
            if self._is_running(end, path):
                ended.append((path, self._ends[path][0]))
        self._look_ahead()
        return ended

    def deadline_passed(self, now: datetime) -> bool:
        """Whether the run's deadline has come."""
        return self._deadline is not None and self._deadline <= now

    def take(self, entry: journal_pb2.JournalEntry) -> None:
        """Takes the next fact of the run."""
        match entry.WhichOneof("fact"):
            case "timer_started":
                started = entry.timer_started
                end = _time(entry) + timedelta(microseconds=started.duration.ToMicroseconds())
                self._run(entry.path, started.timer, end)
            case "timer_fired" | "step_completed" | "step_failed" | "step_skipped" | "step_parked":
                self._ends.pop(entry.path, None)
            case "run_started" if entry.run_started.run.HasField("deadline_time"):
                self._deadline = entry.run_started.run.deadline_time.ToDatetime(tzinfo=UTC)
            case "run_paused":
                self._paused_at, self.paused = _time(entry), True
            case "run_continued" if self._paused_at is not None:
                stood = _time(entry) - self._paused_at
                self._paused_at, self.paused, ends = None, False, list(self._ends.items())
                self._heap.clear()
                for path, (timer, end) in ends:
                    self._run(path, timer, end + stood)
            case "deadline_passed":
                self._deadline = None
            case "run_ended" | "run_abandoned":
                self._ends.clear()
                self._heap.clear()
                self._deadline = None
            case _:
                return
        self._look_ahead()

    def _look_ahead(self) -> None:
        """Finds the next moment."""
        while self._heap and not self._is_running(*self._heap[0]):
            heappop(self._heap)
        first = self._heap[0][0] if self._heap and not self.paused else None
        self.next = first if self._deadline is None else min(first or self._deadline, self._deadline)

    def _run(self, path: str, timer: str, end: datetime) -> None:
        self._ends[path] = timer, end
        heappush(self._heap, (end, path))

    def _is_running(self, end: datetime, path: str) -> bool:
        timer = self._ends.get(path)
        return timer is not None and timer[1] == end


def _time(entry: journal_pb2.JournalEntry) -> datetime:
    return entry.record_time.ToDatetime(tzinfo=UTC)
