"""What budgets count besides money: amounts of one call, and the gauge of one limit."""

from enum import StrEnum
from typing import Final, NamedTuple

from services.cost.domain.errors import RefusalCause
from services.meshkit.core.errors import Invalid

#: Largest limit: for money 4.6 billion dollars, so that sums of a limit and its overrun stay within 64 bits.
MAX_LIMIT: Final = 2**62
#: Largest charge of one call: a million dollars. What is above is a mistake of the caller.
MAX_CHARGE: Final = 10**15


class Measure(StrEnum):
    """What a limit counts, by its unit."""

    MONEY = "nano_usd"
    TOKENS = "tokens"
    CALLS = "calls"
    #: Time from a call's dispatch to its end, milliseconds.
    WALL_TIME = "wall_ms"


class Amounts(NamedTuple):
    """What one call takes, or a difference of that."""

    #: Nano-USD.
    money: int = 0
    tokens: int = 0
    calls: int = 0
    wall_ms: int = 0

    def less(self, other: "Amounts") -> "Amounts":
        """Gives the difference."""
        if other is NONE:
            return self
        return Amounts(
            self.money - other.money,
            self.tokens - other.tokens,
            self.calls - other.calls,
            self.wall_ms - other.wall_ms,
        )

    def risen(self) -> "Amounts":
        """Leaves out what went down."""
        return Amounts(*(max(0, amount) for amount in self))


NONE: Final = Amounts()


class Gauge(NamedTuple):
    """A limit and what is used of it. Always `spent + held <= limit + overrun`, where there is a hard limit."""

    #: None: counted, not limited.
    limit: int | None = None
    spent: int = 0
    held: int = 0
    #: What settlements or a lowered limit took beyond the limit. A hold never raises it.
    overrun: int = 0

    @property
    def left(self) -> int:
        """What can still be held, >= 0; `MAX_LIMIT` where nothing limits it."""
        return MAX_LIMIT if self.limit is None else max(0, self.limit - self.spent - self.held)

    def refusal(self, amount: int) -> RefusalCause | None:
        """Tells why `amount` cannot be held, None if it can. What held calls alone are in the way of is only held."""
        if self.limit is None or (self.overrun == 0 and self.spent + self.held + amount <= self.limit):
            return None
        if self.spent > self.limit:
            return RefusalCause.OVERRUN
        return RefusalCause.SPENT if self.spent + amount > self.limit else RefusalCause.HELD

    def moved(self, held: int, spent: int, *, hard: bool) -> "Gauge":
        """Books differences of what is held and spent.

        Raises: Invalid: so large that the sum does not fit.
        """
        new_held, new_spent = self.held + held, self.spent + spent
        if new_held + new_spent > 2 * MAX_LIMIT - MAX_CHARGE:
            raise Invalid("usage", "takes the budget beyond what 64 bits hold")
        return Gauge(self.limit, new_spent, new_held, _overrun(self.limit, new_spent + new_held, hard=hard))

    def limited(self, limit: int | None, *, hard: bool) -> "Gauge":
        """Changes the limit. One below what is used is accepted and shows as overrun."""
        return Gauge(limit, self.spent, self.held, _overrun(limit, self.spent + self.held, hard=hard))

    def counted(self, spent: int, *, hard: bool) -> "Gauge":
        """Puts what is spent anew."""
        return Gauge(self.limit, spent, self.held, _overrun(self.limit, spent + self.held, hard=hard))

    def bounded(self, spent: int) -> int:
        """Bounds what comes back to what was counted: a correction can always be written."""
        return max(spent, -self.spent)

    def reached(self, percent: int, *, also_held: bool) -> bool:
        """True when so much of the limit is used."""
        if self.limit is None:
            return False
        used = self.spent + self.held if also_held else self.spent
        return used * 100 >= self.limit * percent


UNLIMITED: Final = Gauge()


def _overrun(limit: int | None, used: int, *, hard: bool) -> int:
    return max(0, used - limit) if hard and limit is not None else 0
