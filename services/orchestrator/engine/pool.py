"""One pool of a tenant: the steps that wait in it, and the workers that serve it."""

from collections import Counter, OrderedDict
from collections.abc import Collection

from services.orchestrator.engine.leases import Desk, Offer
from services.orchestrator.engine.live_run import CallKey


class _Queue:
    """The steps of one name that wait: runs take turns, each with its oldest step."""

    def __init__(self) -> None:
        self._runs: OrderedDict[str, OrderedDict[CallKey, Offer]] = OrderedDict()

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
        self.queues: OrderedDict[str, _Queue] = OrderedDict()
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
            for name in self.queues:
                self.ask(name)

    def forget(self, desk: Desk) -> None:
        """Gives a worker nothing more, and asks for it no more."""
        for kept in (self.free, self._unasked, self._asked):
            kept.pop(desk, None)

    def answer(self, desk: Desk) -> None:
        """Notes that a lender has given what it was asked for; asks again if there is more to do."""
        self._asked.pop(desk, None)
        self._unasked[desk] = None
        for name in self.queues:
            if name in desk.steps:
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

    def waits(self, steps: Collection[str]) -> bool:
        """Tells whether a step of one of these names waits."""
        return any(name in steps for name in self.queues)

    def take(self, steps: Collection[str]) -> Offer | None:
        """Takes a step of one of these names, if one waits."""
        for name, queue in self.queues.items():
            if name in steps:
                offer = queue.take()
                if queue:
                    self.queues.move_to_end(name)
                else:
                    del self.queues[name]
                return offer
        return None

    def put(self, offer: Offer, *, first: bool) -> None:
        """Has a step wait."""
        queue = self.queues.get(offer.name)
        if queue is None:
            queue = self.queues[offer.name] = _Queue()
        queue.put(offer, first=first)

    def remove(self, offer: Offer) -> None:
        """Takes a step out, if it is here: one whose delay goes on is not."""
        queue = self.queues.get(offer.name)
        if queue is not None:
            queue.remove(offer)
            if not queue:
                del self.queues[offer.name]
