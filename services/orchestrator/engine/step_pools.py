"""The steps that workers make: who waits for a worker, who has one, and what comes of it.

    offered ──▶ waiting ──lease──▶ with a worker ──first outcome──▶ settled
                   ▲                    │    └──time is up────────▶ settled: NODE_TIMED_OUT
                   └─released, silent,──┤
                     stream lost        └──three in a row lost────▶ settled: WORKER_LOST

What waits lies in the journal: an emptied pool costs nothing but time, and what finds no room is offered again later.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from google.protobuf.duration_pb2 import Duration

from comitia.orchestrator.v1 import journal_pb2, worker_loan_service_pb2, worker_service_pb2
from services.meshkit.core.clock import Clock
from services.meshkit.telemetry import metrics
from services.orchestrator.engine.deadlines import Deadlines
from services.orchestrator.engine.leases import Desk, Lease, Offer, PoolKey
from services.orchestrator.engine.loans import Loan
from services.orchestrator.engine.outcomes import OutcomeRefused, check, fact_of_failure, fact_of_output, failed
from services.orchestrator.engine.pool import Matches, Pool
from services.orchestrator.engine.run_calls import CallKey
from services.orchestrator.engine.step_room import PoolLimits, Seats, WaitingRoom

LEASE_EXPIRED: Final = "LEASE_EXPIRED"
LEASE_UNKNOWN: Final = "LEASE_UNKNOWN"
NODE_TIMED_OUT: Final = "NODE_TIMED_OUT"
WORKER_LOST: Final = "WORKER_LOST"

#: Pause between two looks at the clock while there is something to look for.
_LOOK_SECONDS: Final = 0.25
#: Workers that may be lost in a row over one step.
_MOST_LOST: Final = 3
_LEASED: Final = "orchestrator.steps_leased"
_ANSWERED: Final = metrics.STEP_OUTCOMES.labels("answered")
_FAILED: Final = metrics.STEP_OUTCOMES.labels("failed")
_RELEASED: Final = metrics.STEP_OUTCOMES.labels("released")


class StepPools:
    """The steps of this replica's runs, and the workers that are connected to it."""

    def __init__(self, *, clock: Clock, limits: PoolLimits) -> None:
        self._clock = clock
        self._pools: dict[PoolKey, Pool] = {}
        #: All workers that are connected.
        self._desks: dict[Desk, None] = {}
        #: All that is neither settled nor taken back, by run.
        self._offers: dict[str, dict[CallKey, Offer]] = {}
        self._seats = Seats(limits)
        self._room = WaitingRoom(limits)
        self._leased = 0
        self._deadlines = Deadlines()
        self._busy = asyncio.Event()
        metrics.QUEUE_ITEMS.labels(_LEASED).set_function(lambda: self._leased)

    async def keep_time(self) -> None:
        """Ends leases and waits when their time comes, until cancelled."""
        while True:
            await self._busy.wait()
            await self._clock.sleep(_LOOK_SECONDS)
            # Before the look: what that leases to somebody has to be looked at, too.
            self._busy.clear()
            self._look()
            if self._deadlines or self._room.short:
                self._busy.set()

    # What runs ask for.

    def offer(self, offer: Offer, *, again: Callable[[], None]) -> bool:
        """Has a worker make a step. What comes of it goes to `offer.settle`, once, and never after `withdraw`.

        Args:
            again: called when there is room, if there is none now.
        Returns: False when there is no room.
        """
        pool = self._pool(offer.pool)
        desk = pool.desk_for(offer.name)
        if desk is None and self._room.is_full(offer.tenant):
            self._room.turn_away(offer.tenant, offer.run_id, again)
            self._busy.set()
            self._tidy(offer.pool, pool)
            return False
        steps = self._offers.get(offer.run_id)
        if steps is None:
            steps = self._offers[offer.run_id] = {}
        steps[offer.key] = offer
        if desk is None:
            self._room.count(offer.tenant, 1)
            pool.put(offer, first=False)
            pool.ask(offer.name)
        else:
            self._lease(desk, offer)
            if not desk.credits:
                del pool.free[desk]
        return True

    def withdraw(self, run_id: str, keys: Collection[CallKey] | None = None) -> None:
        """Takes steps of a run back, all of them without `keys`; a worker that has one is told to stop."""
        steps = self._offers.get(run_id, {})
        freed: dict[Desk, None] = {}
        for key in list(steps) if keys is None else keys:
            offer = steps.get(key)
            if offer is not None:
                if offer.lease is not None:
                    freed[offer.lease.desk] = None
                self._unassign(offer)
                self._forget(offer)
        for desk in freed:
            self._serve(desk)
        if keys is None:
            self._room.forget(run_id)

    def hold_back(self, run_id: str) -> Sequence[CallKey]:
        """Takes the steps of a run back that no worker has; gives their keys."""
        waiting = [key for key, offer in self._offers.get(run_id, {}).items() if offer.lease is None]
        if waiting:
            self.withdraw(run_id, waiting)
        return waiting

    # What workers say.

    @contextmanager
    def connected(
        self, desk: Desk, *, credits_: int, held: Sequence[worker_service_pb2.HeldStep] = (), lend: bool = False
    ) -> Iterator[None]:
        """Gives a worker steps within the block; what it has at the end is given to others.

        Args:
            held: what it still works on since an earlier stream.
            lend: others may lease it what it held of them; credits are kept for that until `unreserve`.
        Raises: WorkersAtLimit.
        """
        with self._seats.taken(desk.tenant, lent=desk.lent):
            desk.credits = credits_
            self._desks[desk] = None
            try:
                self._take_up(desk, held)
                if lend:
                    desk.reserved = min(desk.credits, len(held) - len(desk.leases))
                    desk.credits -= desk.reserved
                self._pool(desk.pool).join(desk)
                self._serve(desk)
                yield
            finally:
                self._leave(desk)

    def add_credits(self, desk: Desk, count: int) -> None:
        """Takes a worker's word that it has room for more."""
        desk.credits += count
        self._serve(desk)
        if desk.lent and not desk.draining:
            self._pool(desk.pool).answer(desk)

    def heard(self, desk: Desk, lease_ids: Iterable[int]) -> None:
        """Takes signs of life. Those of leases that have ended say nothing: the worker has been told."""
        now = self._clock.monotonic()
        for lease_id in lease_ids:
            if (lease := desk.leases.get(lease_id)) is not None:
                lease.heard = now
            elif (loan := desk.loans.of(lease_id)) is not None:
                loan.heard(lease_id)

    def outcomes(self, desk: Desk, outcomes: Iterable[worker_service_pb2.StepOutcome]) -> None:
        """Takes outcomes. One that changes nothing is answered as refused."""
        answered = failures = 0
        for outcome in outcomes:
            lease = desk.leases.get(outcome.lease_id)
            if lease is None:
                self._pass_on(desk, outcome)
                continue
            offer = lease.offer
            if outcome.HasField("output"):
                try:
                    fact = fact_of_output(offer.key, outcome.output)
                except OutcomeRefused as refusal:
                    _refuse(desk, lease.lease_id, refusal.reason)
                    continue
                answered += 1
            elif outcome.HasField("failure"):
                fact = fact_of_failure(offer.key, outcome.failure)
                failures += 1
            else:
                self._released(lease, outcome.release.delay)
                continue
            self._end(lease)
            desk.answered()
            self._settle(offer, fact)
        _ANSWERED.inc(answered)
        _FAILED.inc(failures)
        self._serve(desk)

    def drain(self, desk: Desk) -> None:
        """Gives a worker no more steps; it finishes what it has."""
        desk.drain()
        self._pool(desk.pool).forget(desk)

    def gone(self, desk: Desk) -> None:
        """Notes that a lent worker is lost, with what it was making."""
        for lease in list(desk.leases.values()):
            self._end(lease)
            self._lost(lease.offer, by_worker=lease.told)

    def frames(self, desk: Desk) -> Iterator[bytes]:
        """Gives what a worker is to be told; see `Desk.frames`."""
        return desk.frames(self._clock.monotonic(), self._clock.now().timestamp())

    # What other replicas say of workers that are lent to them.

    @contextmanager
    def lent(self, desk: Desk, *, wake: Callable[[], None]) -> Iterator[Loan]:
        """Lends a worker within the block; what the borrower leased to it is revoked at the end.

        Args:
            wake: called when there is something to tell the borrower.
        """
        loan = desk.loans.begin(wake)
        if desk.draining:
            loan.drain()
        try:
            yield loan
        finally:
            desk.loan_ended(loan)
            self._serve(desk)

    def borrowed(self, desk: Desk, loan: Loan, told: worker_loan_service_pb2.LendWorkerResponse) -> None:
        """Takes a borrower's word. Raises: ValueError: it makes no sense."""
        desk.pass_on(loan, told)
        if not 0 <= told.returned_credits <= loan.credits:
            raise ValueError("a borrower returns credits that it has not")
        loan.credits -= told.returned_credits
        desk.credits += told.returned_credits
        loan.begun = True
        loan.asking = (loan.asking or told.asking) and not told.draining
        loan.alone = loan.alone or told.alone
        self._serve(desk)

    def unreserve(self, desk: Desk) -> None:
        """Gives credits free that were kept for what a worker held."""
        desk.credits += desk.reserved
        desk.reserved = 0
        self._serve(desk)

    # How steps and workers find each other.

    def _pool(self, key: PoolKey) -> Pool:
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = Pool()
        return pool

    def _tidy(self, key: PoolKey, pool: Pool) -> None:
        if not pool.desks and not pool.queues and self._pools.get(key) is pool:
            del self._pools[key]

    def _serve(self, desk: Desk) -> None:
        """Gives a worker what waits, for as long as it has credits, and lends what is left of them."""
        pool = self._pools.get(desk.pool)
        if pool is not None and desk.credits and not desk.draining:
            self._give(desk, pool.matches(desk))
        if desk.lent:
            desk.return_credits()
        elif pool is not None and desk.credits and not desk.draining:
            pool.free[desk] = None
        elif pool is not None:
            pool.free.pop(desk, None)

    def _give(self, desk: Desk, waiting: Matches) -> None:
        while desk.credits:
            idle = not waiting
            if (loan := desk.loans.next(idle=idle)) is not None:
                lent = desk.credits if idle else 1
                desk.credits -= lent
                loan.lend(lent)
            elif waiting:
                offer = waiting.take()
                self._room.count(offer.tenant, -1)
                self._lease(desk, offer)
                desk.loans.served_here()
            else:
                break

    def _give_out(self, offer: Offer) -> None:
        """Gives a step that waits to whoever is free, or puts it before the others of its run."""
        pool = self._pool(offer.pool)
        desk = pool.desk_for(offer.name)
        pool.put(offer, first=True)
        if desk is not None:
            self._serve(desk)
        else:
            pool.ask(offer.name)

    def _lease(self, desk: Desk, offer: Offer) -> None:
        self._leased += 1
        desk.lease(offer)
        self._busy.set()

    def _note(self, at: float, what: Lease | Offer) -> None:
        self._deadlines.add(at, what, counting=self._leased + self._room.total)
        self._busy.set()

    def _take_up(self, desk: Desk, held: Iterable[worker_service_pb2.HeldStep]) -> None:
        """Leases to a worker again what it still works on, unless somebody else has it by now."""
        known: dict[str, dict[tuple[str, int], Offer]] = {}
        for step in held:
            if step.run_id not in known:
                steps = self._offers.get(step.run_id, {}).values()
                known[step.run_id] = {(offer.key[0], offer.attempt): offer for offer in steps}
            offer = known[step.run_id].get((step.path, step.attempt))
            if offer is None or offer.pool != desk.pool or offer.name not in desk.steps:
                continue
            if not desk.credits and not desk.lent:
                break
            if offer.lease is None or (offer.lease.desk is not desk and offer.lease.desk.owner == desk.owner):
                self._unassign(offer)
                desk.credits += desk.lent  # the lender has kept one for it
                self._lease(desk, offer)

    def _leave(self, desk: Desk) -> None:
        del self._desks[desk]
        pool = self._pool(desk.pool)
        pool.leave(desk)
        for lease in list(desk.leases.values()):
            self._end(lease)
            # Of a lent worker its lender says so; a loan that breaks is no worker's fault.
            self._lost(lease.offer, by_worker=lease.told and not desk.draining and not desk.lent)
        self._tidy(desk.pool, pool)

    # How leases end.

    def _look(self) -> None:
        now = self._clock.monotonic()
        for desk in self._desks:
            for lease in desk.lasting():
                lease.begin(now)
                self._note(lease.due, lease)
        for what in self._deadlines.due(now):
            if isinstance(what, Offer):
                if what.lease is None:
                    self._give_out(what)
            elif what.until <= now:
                self._timed_out(what)
            elif what.due <= now:
                self._take_back(what)
                self._lost(what.offer, by_worker=what.told)
                self._serve(what.desk)
            else:
                self._note(what.due, what)
        self._room.fill()

    def _timed_out(self, lease: Lease) -> None:
        offer = lease.offer
        self._take_back(lease)
        message = f"the attempt took longer than {offer.timeout:g} s; raise the node's timeout"
        _FAILED.inc()
        self._settle(offer, failed(offer.key, NODE_TIMED_OUT, message))
        self._serve(lease.desk)

    def _lost(self, offer: Offer, *, by_worker: bool) -> None:
        """Gives a step to another worker, unless it has cost too many of them."""
        offer.lost += by_worker
        if offer.lost >= _MOST_LOST:
            message = f"{offer.lost} workers in a row were lost, or silent for too long, while they made the step"
            _FAILED.inc()
            self._settle(offer, failed(offer.key, WORKER_LOST, message))
            return
        self._room.count(offer.tenant, 1)
        self._give_out(offer)

    def _released(self, lease: Lease, delay: Duration) -> None:
        offer = lease.offer
        self._end(lease)
        lease.desk.answered()
        offer.lost = 0
        _RELEASED.inc()
        self._room.count(offer.tenant, 1)
        seconds = delay.seconds + delay.nanos / 1e9
        if seconds > 0:
            self._note(self._clock.monotonic() + seconds, offer)
        else:
            self._give_out(offer)

    def _pass_on(self, desk: Desk, outcome: worker_service_pb2.StepOutcome) -> None:
        """Passes an outcome on to the replica that leased the step, or refuses it."""
        lease_id = outcome.lease_id
        loan = desk.loans.of(lease_id)
        if loan is None:
            if lease_id in desk.owed:
                desk.owed.discard(lease_id)
                desk.answered()
            known = 0 < lease_id <= desk.last_id or desk.loans.knew(lease_id)
            _refuse(desk, lease_id, LEASE_EXPIRED if known else LEASE_UNKNOWN)
            return
        try:
            check(outcome)
        except OutcomeRefused as refusal:
            _refuse(desk, lease_id, refusal.reason)
        else:
            loan.answer(outcome)
            desk.answered()

    def _end(self, lease: Lease) -> None:
        """Ends a lease without a word to its worker."""
        self._leased -= 1
        lease.offer.lease = None
        del lease.desk.leases[lease.lease_id]

    def _take_back(self, lease: Lease) -> None:
        """Ends a lease and tells its worker."""
        self._leased -= 1
        lease.desk.take_back(lease)

    def _unassign(self, offer: Offer) -> None:
        """Takes a step from whoever has it, or out of the queue."""
        if offer.lease is not None:
            self._take_back(offer.lease)
            return
        self._room.count(offer.tenant, -1)
        pool = self._pool(offer.pool)
        pool.remove(offer)
        self._tidy(offer.pool, pool)

    def _settle(self, offer: Offer, fact: journal_pb2.JournalEntry) -> None:
        self._forget(offer)
        offer.settle(fact)

    def _forget(self, offer: Offer) -> None:
        offer.gone = True
        steps = self._offers[offer.run_id]
        del steps[offer.key]
        if not steps:
            del self._offers[offer.run_id]


def _refuse(desk: Desk, lease_id: int, reason: str) -> None:
    metrics.STEP_OUTCOMES.labels(reason).inc()
    desk.refuse(lease_id, reason)
