"""Leaves a deployment alone that fails, and finds out with one call whether it has recovered."""

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_WINDOW_SECONDS: Final = 10.0
#: Share of the calls of a window that opens it, once there are twice as many as fail in a row.
_SHARE: Final = 0.5
_FIRST_SECONDS: Final = 1.0
_LONGEST_SECONDS: Final = 30.0
#: How far the time that it stays open is spread, so that replicas do not probe together.
_SPREAD: Final = 0.2
#: How long to wait before one looks again while somebody else's call is finding out, seconds.
_WHILE_PROBED: Final = 0.25


class BreakerState(StrEnum):
    """Whether calls go through."""

    CLOSED = "closed"
    OPEN = "open"
    #: One call is let through, to find out.
    HALF_OPEN = "half_open"


@dataclass(slots=True)
class _Second:
    """What came of the calls of one second."""

    second: int
    calls: int = 0
    failures: int = 0


class Breaker:
    """Closed → open at so many failures in a row, or at half of twice as many calls in 10 s → half open → closed.

    It stays open for 1 s, and for twice as long, up to 30 s, each time that the call that finds out fails.

    Args:
        in_a_row: failures in a row that open it.
    """

    def __init__(self, *, in_a_row: int) -> None:
        self._in_a_row = in_a_row
        self._seconds = deque[_Second]()
        self._row = 0
        self._opened = 0
        self._until = 0.0
        self.state = BreakerState.CLOSED
        self._probed = False

    def wait(self, now: float) -> float:
        """Gives the seconds until a call may go through; 0: now."""
        match self.state:
            case BreakerState.CLOSED:
                return 0.0
            case BreakerState.OPEN:
                return max(self._until - now, 0.0)
            case BreakerState.HALF_OPEN:
                return _WHILE_PROBED if self._probed else 0.0

    def enter(self) -> bool:
        """Lets a call through, after `wait` gave 0; True when it is the one that finds out."""
        if self.state is BreakerState.CLOSED:
            return False
        self.state, self._probed = BreakerState.HALF_OPEN, True
        return True

    def answered(self, now: float, *, probing: bool) -> None:
        """Hears that a deployment answered. Calls of before it opened close nothing."""
        if probing:
            self.state, self._probed = BreakerState.CLOSED, False
            self._opened = 0
            self._seconds.clear()
        if self.state is BreakerState.CLOSED:
            self._row = 0
            self._second(now).calls += 1

    def failed(self, now: float, *, probing: bool, dice: float) -> None:
        """Hears that a deployment failed, by its own fault.

        Args:
            dice: 0 to 1.
        """
        if probing:
            self._open(now, dice)
        elif self.state is BreakerState.CLOSED:
            self._row += 1
            second = self._second(now)
            second.calls += 1
            second.failures += 1
            calls, failures = sum(one.calls for one in self._seconds), sum(one.failures for one in self._seconds)
            if self._row >= self._in_a_row or (calls >= 2 * self._in_a_row and failures >= _SHARE * calls):
                self._open(now, dice)

    def looked_at(self) -> None:
        """Hears that a deployment answered without having been asked anything: the next call may find out the rest."""
        if self.state is BreakerState.OPEN:
            self.state, self._probed = BreakerState.HALF_OPEN, False

    def left(self, *, probing: bool) -> None:
        """Hears that a call ended without telling anything: the next may find out."""
        if probing:
            self._probed = False

    def _open(self, now: float, dice: float) -> None:
        seconds = min(_FIRST_SECONDS * 2.0 ** min(self._opened, 10), _LONGEST_SECONDS)
        self._until = now + seconds * (1 + _SPREAD * (2 * dice - 1))
        self._opened += 1
        self.state, self._probed, self._row = BreakerState.OPEN, False, 0
        self._seconds.clear()

    def _second(self, now: float) -> _Second:
        """Gives the count of this second; forgets those that are too old."""
        while self._seconds and self._seconds[0].second <= now - _WINDOW_SECONDS:
            self._seconds.popleft()
        if not self._seconds or self._seconds[-1].second != int(now):
            self._seconds.append(_Second(int(now)))
        return self._seconds[-1]
