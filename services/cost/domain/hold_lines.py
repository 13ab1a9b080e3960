"""Who waits for money that is only held: one line at each budget, and in it first come, first served.

A call stands in the line of every budget that it was ever refused by, with the number that it drew when it came, until
it leaves them all. Nobody gets money of a budget while an older call stands in its line, however small it is and
whether it waits or not: so a big call is not starved by small ones. The oldest call of all is the first of each of its
lines, so no two calls wait for each other.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count, islice
from operator import attrgetter
from uuid import UUID

from services.cost.domain.amounts import NONE, Amounts
from services.cost.domain.budget import Budget, BudgetId
from services.cost.domain.errors import BudgetDegrades, BudgetExhausted, RefusalCause
from services.cost.domain.terms import BudgetMode
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId

#: A request of a tenant.
RequestKey = tuple[TenantId, UUID]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBack:
    """What a call would need that is only held by others."""

    #: Budgets that have too little left, or in whose line others stand before it.
    at: tuple[BudgetId, ...]
    most: Amounts
    #: True when it passes where only the cheapest do.
    cheapest: bool


def is_held_back(refusal: MeshError) -> bool:
    """True when what stands in a call's way is only held, so that waiting may help."""
    return isinstance(refusal, BudgetExhausted) and refusal.held_back is not None


@dataclass(slots=True, eq=False)
class Place:
    """A call that waits."""

    key: RequestKey
    #: Lower ones came earlier.
    number: int
    held_back: HeldBack
    #: Budgets in whose lines it stands.
    at: set[BudgetId] = field(default_factory=set[BudgetId])


@dataclass(slots=True)
class _Line:
    places: list[Place] = field(default_factory=list[Place])
    #: The budget as it was last heard of.
    budget: Budget | None = None
    #: At least what any of them needs, by each measure.
    highest: Amounts = NONE

    def add(self, place: Place) -> None:
        self.places.append(place)
        if len(self.places) > 1 and self.places[-2].number > place.number:
            self.places.sort(key=attrgetter("number"))
        self.reach(place.held_back.most)

    def reach(self, most: Amounts) -> None:
        self.highest = Amounts(*map(max, self.highest, most))


class Turns:
    """The lines as one group of calls is decided: who was served in it stands in nobody's way any more."""

    def __init__(self, lines: "HoldLines") -> None:
        self._lines = lines
        self._served: set[int] = set()
        self._firsts: dict[BudgetId, int] = {}

    def someone_before(self, key: RequestKey, budget: BudgetId) -> bool:
        """True when an older call stands in the line of a budget."""
        first = self.first(budget)
        if first is None or first.key == key:
            return False
        place = self._lines.place(key)
        return place is None or first.number < place.number

    def first(self, budget: BudgetId) -> Place | None:
        """Gives the oldest call that stands in the line of a budget and was not served yet."""
        places = self._lines.at(budget)
        index = self._firsts.get(budget, 0)
        while index < len(places) and places[index].number in self._served:
            index += 1
        self._firsts[budget] = index
        return places[index] if index < len(places) else None

    def served(self, key: RequestKey) -> None:
        """Lets those behind a call pass."""
        place = self._lines.place(key)
        if place is not None:
            self._served.add(place.number)


class HoldLines:
    """The lines of one process. They are short-lived and know nothing of those of other replicas.

    Args:
        changed: called when a budget that is waited for may have more room.
    """

    def __init__(self, *, changed: Callable[[], None]) -> None:
        self._places: dict[RequestKey, Place] = {}
        self._lines: dict[BudgetId, _Line] = {}
        self._news: set[BudgetId] = set()
        self._numbers = count(1)
        self._changed = changed

    def __len__(self) -> int:
        return len(self._places)

    def turns(self) -> Turns | None:
        """Gives the lines for deciding a group; None when nobody waits."""
        return Turns(self) if self._places else None

    def place(self, key: RequestKey) -> Place | None:
        """Gives where a call waits."""
        return self._places.get(key)

    def at(self, budget: BudgetId) -> list[Place]:
        """Gives who waits at a budget, oldest first."""
        line = self._lines.get(budget)
        return [] if line is None else line.places

    def join(self, key: RequestKey, held_back: HeldBack) -> Place:
        """Has a call wait at the budgets that hold it back. One that waits already keeps its number and its lines."""
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = Place(key, next(self._numbers), held_back)
        place.held_back = held_back
        for budget in held_back.at:
            line = self._lines.setdefault(budget, _Line())
            if budget in place.at:
                line.reach(held_back.most)
            else:
                place.at.add(budget)
                line.add(place)
                self._news.add(budget)
        return place

    def leave(self, place: Place) -> None:
        """Ends the wait of a call; who stands behind it may be next."""
        if self._places.pop(place.key, None) is None:
            return
        for budget in place.at:
            line = self._lines[budget]
            line.places.remove(place)
            if line.places:
                self._news.add(budget)
            else:
                del self._lines[budget]
                self._news.discard(budget)
        if self._news:
            self._changed()

    def moved(self, budgets: Iterable[Budget]) -> None:
        """Takes in budgets as they were just written or read."""
        if not self._lines:
            return
        for budget in budgets:
            line = self._lines.get(budget.id)
            if line is not None and (line.budget is None or line.budget.revision < budget.revision):
                line.budget = budget
                self._news.add(budget.id)
        if self._news:
            self._changed()

    def due(self, now: datetime) -> list[Place]:
        """Gives those that, by what was heard, can be held now or never will be, oldest first.

        What they get is decided on the rows themselves. Each news of a budget is looked through once.
        """
        news, self._news = self._news, set()
        look = _Look(self, Turns(self), now)
        for name in news:
            line = self._lines.get(name)
            if line is not None:
                self._look_through(name, line, look)
        return [look.found[number] for number in sorted(look.found)]

    def firsts(self, most: int) -> list[Place]:
        """Gives the first of some lines, others each time: something may have come free that nobody here heard of."""
        names = list(islice(self._lines, most))
        for name in names:
            self._lines[name] = self._lines.pop(name)
        firsts = {line.places[0].number: line.places[0] for line in map(self._lines.__getitem__, names)}
        return [firsts[number] for number in sorted(firsts)]

    def heard_of(self, budget: BudgetId) -> Budget | None:
        """Gives a budget that is waited for as it was last heard of."""
        line = self._lines.get(budget)
        return None if line is None else line.budget

    def _look_through(self, name: BudgetId, line: _Line, look: "_Look") -> None:
        for place in line.places:
            if place.number in look.found:
                continue
            fate = look.fate_of(place)
            if fate is not None:
                look.take(place, free=fate)
            elif not _may_be_hopeless(look.room(name), line.highest):
                return
        # All were looked at, so this is known exactly again.
        line.highest = NONE
        for place in line.places:
            if place.number not in look.found:
                line.reach(place.held_back.most)


class _Look:
    """One look at what has come free."""

    def __init__(self, lines: HoldLines, turns: Turns, now: datetime) -> None:
        self._lines = lines
        self._turns = turns
        self._now = now
        #: Budgets as they would be once those found are held.
        self._rooms: dict[BudgetId, Budget | None] = {}
        self.found: dict[int, Place] = {}

    def room(self, name: BudgetId) -> Budget | None:
        """Gives a budget as it will be once those found are held; None when nothing was heard of it."""
        if name not in self._rooms:
            heard = self._lines.heard_of(name)
            self._rooms[name] = None if heard is None else heard.at(self._now)
        return self._rooms[name]

    def fate_of(self, place: Place) -> bool | None:
        """True when a call can be held, False when it never will be, None while it has to wait."""
        waits = False
        for name in place.at:
            budget = self.room(name)
            waits = waits or budget is None or self._turns.someone_before(place.key, name)
            if budget is None:
                continue
            try:
                most, cheapest = place.held_back.most, place.held_back.cheapest
                budget.refuse_unless_free(most, now=self._now, cheapest=cheapest, waits=True)
            except BudgetDegrades:
                return False
            except BudgetExhausted as refusal:
                if refusal.cause is not RefusalCause.HELD:
                    return False
                waits = True
        return None if waits else True

    def take(self, place: Place, *, free: bool) -> None:
        """Notes a call whose wait can end."""
        self.found[place.number] = place
        self._turns.served(place.key)
        for name in place.at if free else ():
            budget = self.room(name)
            if budget is not None:
                self._rooms[name] = budget.hold(place.held_back.most)


def _may_be_hopeless(budget: Budget | None, highest: Amounts) -> bool:
    """True when one of those who wait may wait in vain, for all that is known without looking at each."""
    if budget is None:
        return False
    if budget.mode is BudgetMode.DEGRADE or budget.degraded_until is not None:
        return True
    return any(
        gauge.limit is not None and gauge.spent + amount > gauge.limit
        for (_, gauge), amount in zip(budget.gauges, highest, strict=True)
    )
