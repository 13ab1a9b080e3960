"""Who gets the next free seat: the tenant that has taken the fewest tokens of those that wait.

Each tenant has a counter that its calls move on by what they weigh. A seat goes to the smallest counter of those that
wait; at a tie to who waits longer; within a tenant in the order of arrival. Who comes back begins where the others are,
so that nobody saves up. What a call weighs is an estimate until its usage is known; the difference moves the counter at
the tenant's next seats, never while it waits.

**Bound**: of one class, with T tenants that wait meanwhile, the first call of each gets a seat after at most
T * (1 + MOST / LEAST) seats of that class, whatever the others ask for. For each seat moves a counter on by LEAST or
more, and all counters of those that wait lie within MOST of the smallest. Of eleven seats that both classes wait for,
interactive work gets ten and batch work one; batch work takes three quarters of all seats at most.

Source: Sheng et al., Fairness in Serving Large Language Models, 2024 (the Virtual Token Counter), with the lift of
Goyal et al., Start-time Fair Queueing, 1996, and steps of bounded size.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from services.inference.domain.call_policy import WorkClass
from services.meshkit.content import Usage

#: Smallest and largest step of a counter, tokens. What a call weighs beyond is carried over to the next steps.
LEAST: Final = 1_024
MOST: Final = 65_536
#: Most that is carried over: who only makes calls of more than `MOST` pays `MOST` for each.
_MOST_OWED: Final = 16 * MOST
#: Seats for interactive work in a row while batch work waits.
_BEFORE_BATCH: Final = 10
#: Making a token takes about as long as reading four.
_OUTPUT_FACTOR: Final = 4


def weight_of(usage: Usage) -> int:
    """Gives what tokens weigh: those that a model writes count four times."""
    written = usage.output + usage.reasoning + usage.audio_out
    return usage.total - written + _OUTPUT_FACTOR * written


class Standing(Enum):
    """Where a call is."""

    WAITING = "waiting"
    SEATED = "seated"
    #: There was no place to wait, or somebody with fewer calls that wait needed it.
    TURNED_AWAY = "turned away"
    GONE = "gone"


@dataclass(eq=False, slots=True)
class Ticket:
    """One call that wants a seat."""

    tenant: Hashable
    work_class: WorkClass
    #: As estimated, tokens.
    weight: int
    standing: Standing = Standing.WAITING


@dataclass(eq=False, slots=True)
class _Account:
    """What one tenant has taken in one class."""

    counter: int
    #: Tokens by which the counter is to move on, or was moved on too far.
    owed: int = 0
    seated: int = 0
    #: Grows with each tenant that begins to wait.
    since: int = 0
    waiting: deque[Ticket] = field(default_factory=deque[Ticket])


class _Lane:
    """The tenants of one class."""

    def __init__(self) -> None:
        self.accounts: dict[Hashable, _Account] = {}
        self.waiting: dict[Hashable, _Account] = {}
        self.seated = 0
        #: Counter at which the last seat was given: nobody begins below.
        self._floor = 0
        self._order = 0

    def add(self, ticket: Ticket) -> None:
        account = self.accounts.get(ticket.tenant)
        if account is None:
            account = self.accounts[ticket.tenant] = _Account(self._floor)
        if not account.waiting:
            reached = account.counter + account.owed
            account.counter = max(account.counter, self._floor)
            account.owed = reached - account.counter if reached > self._floor else 0
            account.since = self._order = self._order + 1
            self.waiting[ticket.tenant] = account
        account.waiting.append(ticket)

    def next(self) -> Ticket:
        """Takes the call that is next out of the queue, and has its tenant's counter move on."""
        account = min(self.waiting.values(), key=lambda one: (one.counter, one.since))
        ticket = account.waiting.popleft()
        if not account.waiting:
            del self.waiting[ticket.tenant]
        start, ahead = account.counter, account.owed + ticket.weight
        alone = len(self.waiting) == bool(account.waiting)
        # Who is alone takes nothing from anybody: all of it is reckoned at once.
        step = max(ahead, LEAST) if alone else min(max(ahead, LEAST), MOST)
        account.counter, account.owed = start + step, max(-_MOST_OWED, min(ahead - step, _MOST_OWED))
        self._floor = max(self._floor, start, account.counter - MOST)
        account.seated += 1
        self.seated += 1
        return ticket

    def leave(self, ticket: Ticket, weight: int) -> None:
        """Takes a seat back."""
        account = self.accounts[ticket.tenant]
        account.owed += weight - ticket.weight
        account.seated -= 1
        self.seated -= 1
        self._forget(ticket.tenant, account)

    def remove(self, ticket: Ticket) -> None:
        """Takes a call that waits out of the queue."""
        account = self.accounts[ticket.tenant]
        account.waiting.remove(ticket)
        if not account.waiting:
            del self.waiting[ticket.tenant]
        self._forget(ticket.tenant, account)

    def _forget(self, tenant: Hashable, account: _Account) -> None:
        """Forgets a tenant whose counter would be lifted to where others are anyway."""
        idle = not account.seated and not account.waiting
        if idle and (not self.seated or account.counter + account.owed <= self._floor):
            del self.accounts[tenant]


class FairQueue:
    """The seats of a replica and who waits for one.

    Args:
        seats: calls made at once, >= 1.
        most_waiting: calls that wait. When they are that many, the tenant with the most gives way to one with fewer.
        most_waiting_each: calls of one tenant that wait.
    """

    def __init__(self, *, seats: int, most_waiting: int, most_waiting_each: int) -> None:
        self.seats: Final = seats
        self._batch_seats = max(1, seats - (seats + 3) // 4)
        self._most_waiting = most_waiting
        self._most_waiting_each = most_waiting_each
        self._lanes = {one: _Lane() for one in WorkClass}
        self._in_a_row = 0
        self.waiting = 0

    @property
    def seated(self) -> int:
        """Seats that are taken."""
        return sum(lane.seated for lane in self._lanes.values())

    def is_full(self, tenant: Hashable, work_class: WorkClass) -> bool:
        """Says whether a tenant has as many calls waiting as it may: one more would be turned away."""
        account = self._lanes[work_class].accounts.get(tenant)
        return account is not None and len(account.waiting) >= self._most_waiting_each

    def enter(self, tenant: Hashable, work_class: WorkClass, weight: int) -> tuple[Ticket, list[Ticket]]:
        """Asks for a seat.

        Returns: the ticket, with its standing, and one that was turned away for it.
        """
        ticket = Ticket(tenant, work_class, weight)
        self._lanes[work_class].add(ticket)
        self.waiting += 1
        self._give_seats()
        if ticket.standing is Standing.SEATED:
            return ticket, []
        if len(self._lanes[work_class].accounts[tenant].waiting) > self._most_waiting_each:
            self._turn_away(ticket)
        elif self.waiting > self._most_waiting:
            longest = max(
                (account.waiting for lane in self._lanes.values() for account in lane.waiting.values()), key=len
            )
            mine = self._lanes[work_class].accounts[tenant].waiting
            out = longest[-1] if len(longest) > len(mine) else ticket
            self._turn_away(out)
            return ticket, [] if out is ticket else [out]
        return ticket, []

    def leave(self, ticket: Ticket, weight: int) -> list[Ticket]:
        """Gives a seat back.

        Args:
            weight: of what the call used.
        Returns: those who have a seat now.
        """
        ticket.standing = Standing.GONE
        self._lanes[ticket.work_class].leave(ticket, weight)
        return self._give_seats()

    def give_up(self, ticket: Ticket) -> list[Ticket]:
        """Waits no longer. Returns: those who have a seat now."""
        self.waiting -= 1
        ticket.standing = Standing.GONE
        self._lanes[ticket.work_class].remove(ticket)
        return self._give_seats()

    def _turn_away(self, ticket: Ticket) -> None:
        self.waiting -= 1
        ticket.standing = Standing.TURNED_AWAY
        self._lanes[ticket.work_class].remove(ticket)

    def _give_seats(self) -> list[Ticket]:
        given: list[Ticket] = []
        while self.seated < self.seats and (lane := self._next_lane()) is not None:
            ticket = lane.next()
            ticket.standing = Standing.SEATED
            self.waiting -= 1
            given.append(ticket)
        return given

    def _next_lane(self) -> _Lane | None:
        quick, batch = self._lanes[WorkClass.INTERACTIVE], self._lanes[WorkClass.BATCH]
        batch_may = bool(batch.waiting) and batch.seated < self._batch_seats
        if quick.waiting and not (batch_may and self._in_a_row >= _BEFORE_BATCH):
            self._in_a_row = self._in_a_row + 1 if batch_may else 0
            return quick
        self._in_a_row = 0
        return batch if batch_may else None
