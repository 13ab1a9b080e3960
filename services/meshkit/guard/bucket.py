"""A token bucket as one replica sees it: what it leased, what it spent ahead, what it may spend when cut off."""

import asyncio
import math
from typing import Final

from services.meshkit.core.rate import MOST_TOKENS, SLICE_SECONDS, Ask, Slice, ahead_of, burst_of, slice_of

#: While the gateway is away a replica spends this part of a limit on its own.
ALONE_PART: Final = 0.25
#: Rates are measured over this span at least, seconds.
_LEAST_SPAN: Final = 0.02


class LocalBucket:
    """Spending is a few comparisons; the lessee carries asks to the gateway and slices back.

    Args:
        burst: the most tokens that it holds; None for what goes with the rate.
    Concurrency: one event loop; nothing here waits.
    """

    __slots__ = (
        "_ahead",
        "_ahead_most",
        "_alone",
        "_alone_at",
        "_asked_at",
        "_blocked_until",
        "_heard_at",
        "_in_flight",
        "_outage",
        "_remaining",
        "_slice",
        "_unused",
        "_used",
        "_void_at",
        "_waiting",
        "_wanted",
        "asking",
        "burst",
        "name",
        "per_second",
        "tokens",
    )

    def __init__(self, name: str, per_second: float, *, burst: float | None = None) -> None:
        self.name = name
        self.set_rate(per_second, burst=burst)
        #: Leased and not spent.
        self.tokens = 0
        self._void_at = 0.0
        #: Spent and not booked yet; of these, those whose booking is on its way.
        self._ahead = 0
        self._in_flight = 0
        #: To be handed back.
        self._unused = 0
        #: True while an ask is queued or on its way.
        self.asking = False
        self._used = 0
        self._asked_at = -math.inf
        self._wanted = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._blocked_until = 0.0
        self._remaining = self.burst
        self._heard_at = 0.0
        self._alone = 0.0
        self._alone_at = 0.0
        self._outage: int = 0

    def set_rate(self, per_second: float, *, burst: float | None = None) -> None:
        """Changes the limit."""
        self.per_second = per_second
        self.burst = burst_of(per_second) if burst is None else burst
        self._slice = slice_of(per_second)
        self._ahead_most = ahead_of(per_second)

    def wait_for(self, now: float, *, outage: int) -> float | None:
        """Says whether a call may go: 0 when it may, the seconds until one may, None when only the gateway knows.

        Args:
            outage: number of the outage that goes on; 0 while the gateway answers.
        """
        if self.tokens > 0:
            if now < self._void_at:
                return 0.0
            self.expire(now)
        if outage:
            return self._wait_alone(now, outage)
        if now < self._blocked_until:
            return self._blocked_until - now
        return 0.0 if self._ahead < self._ahead_most else None

    def spend(self, now: float, *, outage: int) -> bool:
        """Takes the token that `wait_for` has just allowed. True when the gateway should hear of it."""
        self._used += 1
        if self.tokens > 0:
            self.tokens -= 1
            return self.tokens * 3 <= self._wanted and not self.asking and now >= self._blocked_until
        if outage:
            self._alone -= 1.0
        else:
            self._ahead += 1
        return not self.asking

    def expire(self, now: float) -> bool:
        """Sets void tokens aside to be handed back. True when there were some."""
        if self.tokens > 0 and now >= self._void_at:
            self._unused += self.tokens
            self.tokens = 0
            return True
        return False

    def ask(self, now: float) -> Ask:
        """Writes what to ask now: what waits, what will be needed soon, what was spent ahead, what was not used."""
        self._wanted = self._soon(now)
        tokens = max(0, self._wanted - self.tokens) + len(self._waiting)
        ask = Ask(
            bucket=self.name,
            per_second=self.per_second,
            burst=self.burst,
            tokens=min(MOST_TOKENS, tokens),
            spent=self._ahead,
            unused=min(MOST_TOKENS, self._unused),
        )
        self._in_flight = self._ahead
        self._unused = self._used = 0
        self._asked_at = now
        return ask

    def take(self, got: Slice, *, asked_at: float, now: float) -> None:
        """Takes a slice in and wakes who waits."""
        self._ahead -= self._in_flight
        self.tokens += got.tokens
        spare = self.tokens - self._slice - len(self._waiting)
        if spare > 0:
            self.tokens -= spare
            self._unused += spare
        self._void_at = asked_at + got.seconds
        self._remaining, self._heard_at = got.remaining, now
        self._blocked_until = now + self._wait_after(got)
        self._answered()

    def fail(self) -> None:
        """Takes in that no answer came. What was asked is lost; what was spent ahead is booked once more."""
        self._answered()

    @property
    def settled(self) -> bool:
        """False while there is something that the gateway has yet to hear."""
        return not (self._ahead or self._unused or self._waiting)

    @property
    def void_at(self) -> float:
        """When the tokens become void, by the clock that `take` was given."""
        return self._void_at

    def left(self, now: float) -> float:
        """Estimates how many calls may start right now, >= 0, in the whole mesh."""
        flowed = (now - self._heard_at) * self.per_second
        return max(0.0, min(self.burst, self._remaining + flowed + self.tokens - self._ahead))

    def wait(self) -> asyncio.Future[None]:
        """Gives what is done once the gateway has spoken about this bucket; `leave` it afterwards."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        return waiter

    def leave(self, waiter: asyncio.Future[None]) -> None:
        """Takes back a wait that was cut short."""
        if waiter in self._waiting:
            self._waiting.remove(waiter)

    def _answered(self) -> None:
        self._in_flight = 0
        self.asking = False
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def _wait_after(self, got: Slice) -> float:
        """Gives how long there is nothing to be had; what was spent ahead since the ask comes off as well."""
        if got.wait_seconds > 0:
            return got.wait_seconds + self._ahead / self.per_second
        return max(0.0, (1.0 + self._ahead - got.remaining) / self.per_second) if self._ahead else 0.0

    def _soon(self, now: float) -> int:
        if now < self._blocked_until:
            return 0
        # Never more than what the last moments used: a slow caller gets no slice at all.
        return min(self._slice, int(self._used / max(now - self._asked_at, _LEAST_SPAN) * SLICE_SECONDS))

    def _wait_alone(self, now: float, outage: int) -> float:
        most = max(1.0, self.burst * ALONE_PART)
        rate = self.per_second * ALONE_PART
        if outage != self._outage:
            self._outage, self._alone = outage, most
        else:
            self._alone = min(most, self._alone + (now - self._alone_at) * rate)
        self._alone_at = now
        return 0.0 if self._alone >= 1.0 else (1.0 - self._alone) / rate
