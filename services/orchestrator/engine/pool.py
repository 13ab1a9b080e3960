"""One pool of a tenant: the steps that wait in it, and the workers that serve it."""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Set
from heapq import heapify, heappop, heapreplace
from itertools import count

from services.orchestrator.engine.leases import Desk, Offer
from services.orchestrator.engine.run_calls import CallKey


class _Queue:
    """The steps of one name that wait: runs take turns, each with its oldest step."""

    def __init__(self, turn: int) -> None:
        self._runs: OrderedDict[str, OrderedDict[CallKey, Offer]] = OrderedDict()
        #: Of two names, the one with the lower number comes first.
        self.turn = turn

    def __bool__(self) -> bool:
        return bool(self._runs)

    def put(self, offer: Offer, *, first: bool) -> None:
        """Adds a step, behind those of its run or before them."""
        steps = self._runs.get(offer.run_id)
        if steps is None:
            steps = self._runs[offer.run_id] = OrderedDict()
        steps[offer.key] = offer
        if first:
            steps.move_to_end(offer.key, last=False)

    def take(self) -> Offer:
        """Takes the step whose turn it is."""
        run_id, steps = next(iter(self._runs.items()))
        _, offer = steps.popitem(last=False)
        if steps:
            self._runs.move_to_end(run_id)
        else:
            del self._runs[run_id]
        return offer

    def remove(self, offer: Offer) -> None:
        """Takes one step out, if it is here."""
        steps = self._runs.get(offer.run_id)
        if steps is not None and steps.pop(offer.key, None) is not None and not steps:
            del self._runs[offer.run_id]


class Pool:
    """Who waits for whom. Changed by `StepPools` alone."""

    def __init__(self) -> None:
        #: What waits, by the name of the step. Names take turns.
        self.queues: dict[str, _Queue] = {}
        self._turns = count()
        #: Workers with credits left. They take turns.
        self.free: OrderedDict[Desk, None] = OrderedDict()
        #: Streams that serve it, and how many workers of this replica offer each step.
        self.desks = 0
        self._own: Counter[str] = Counter()
        #: Lent workers whose lender was not asked for credits, and those whose lender was asked politely.
        self._unasked: OrderedDict[Desk, None] = OrderedDict()
        self._asked: OrderedDict[Desk, None] = OrderedDict()

    def join(self, desk: Desk) -> None:
        """Takes a worker in."""
        self.desks += 1
        if desk.lent:
            self.answer(desk)
        else:
            self._own.update(desk.steps)

    def leave(self, desk: Desk) -> None:
        """Takes a worker out. What waits and nobody else here makes is then asked for with more force."""
        self.desks -= 1
        self.forget(desk)
        if not desk.lent:
            self._own -= Counter(desk.steps)
            for name in self._waiting(desk.steps):
                self.ask(name)

    def forget(self, desk: Desk) -> None:
        """Gives a worker nothing more, and asks for it no more."""
        for kept in (self.free, self._unasked, self._asked):
            kept.pop(desk, None)

    def answer(self, desk: Desk) -> None:
        """Notes that a lender has given what it was asked for; asks again if there is more to do."""
        self._asked.pop(desk, None)
        self._unasked[desk] = None
        for name in self._waiting(desk.steps):
            self.ask(name)

    def ask(self, name: str) -> None:
        """Asks the lenders of workers that make a step which waits; once, and once more when nobody here makes it."""
        alone = not self._own[name]
        for desk in [desk for desk in self._unasked if name in desk.steps]:
            del self._unasked[desk]
            if not alone:
                self._asked[desk] = None
            desk.ask(alone=alone)
        if alone:
            for desk in [desk for desk in self._asked if name in desk.steps]:
                del self._asked[desk]
                desk.ask(alone=True)

    def desk_for(self, name: str) -> Desk | None:
        """Gives a worker that takes the step."""
        for desk in self.free:
            if name in desk.steps:
                self.free.move_to_end(desk)
                return desk
        return None

    def matches(self, desk: Desk) -> "Matches":
        """Gives what waits and a worker makes. Good until something else of the pool changes."""
        return Matches(self, [(self.queues[name].turn, name) for name in self._waiting(desk.steps)])

    def take(self, name: str) -> tuple[Offer, int | None]:
        """Takes a step of a name that waits; gives the next turn of that name as well, if more of it waits."""
        queue = self.queues[name]
        offer = queue.take()
        if not queue:
            del self.queues[name]
            return offer, None
        queue.turn = next(self._turns)
        return offer, queue.turn

    def _waiting(self, steps: Set[str]) -> Iterator[str]:
        """Gives the names that wait among these. Of either there may be very many, so the fewer are looked at."""
        few, many = (steps, self.queues) if len(steps) < len(self.queues) else (self.queues, steps)
        return (name for name in few if name in many)

    def put(self, offer: Offer, *, first: bool) -> None:
        """Has a step wait."""
        queue = self.queues.get(offer.name)
        if queue is None:
            queue = self.queues[offer.name] = _Queue(next(self._turns))
        queue.put(offer, first=first)

    def remove(self, offer: Offer) -> None:
        """Takes a step out, if it is here: one whose delay goes on is not."""
        queue = self.queues.get(offer.name)
        if queue is not None:
            queue.remove(offer)
            if not queue:
                del self.queues[offer.name]


class Matches:
    """What waits in a pool and one worker makes, found once for all that the worker is to be given now."""

    def __init__(self, pool: Pool, turns: list[tuple[int, str]]) -> None:
        self._pool = pool
        self._turns = turns
        heapify(turns)

    def __bool__(self) -> bool:
        return bool(self._turns)

    def take(self) -> Offer:
        """Takes the step whose turn it is."""
        _, name = self._turns[0]
        offer, turn = self._pool.take(name)
        if turn is None:
            heappop(self._turns)
        else:
            heapreplace(self._turns, (turn, name))
        return offer
