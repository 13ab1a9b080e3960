"""Workers that are lent to other replicas, for steps of the runs that those drive: the lender's side.

    borrower                               lender                                        worker
       │ asking (a step waits) ──────────────▶ │                                            │
       │ ◀───────────── credits: all, if idle; │ one in turn, if the borrower has no other  │
       │ leases, or returned credits ────────▶ │ ── leases ───────────────────────────────▶ │
       │ ◀──────────────────────────── outcome │ ◀───────────── outcome: a credit is back ── │

A credit is in one place at any time, so nobody gets more than it has room for. Numbers of leases begin at another place
for every loan, so a worker's stream needs no table of them.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final

from comitia.orchestrator.v1 import worker_loan_service_pb2, worker_service_pb2

#: Bits of a lease's number that count within one loan. The rest number the loans of a worker's stream; 0 is none.
_WITHIN: Final = 40
#: Bounds of one message, as a worker's own has. A single larger outcome travels alone.
_MAX_OUTCOMES: Final = 1_000
_MAX_BYTES: Final = 2 * 1024 * 1024
_MAX_HEARTBEATS: Final = 10_000


class Loan:
    """One worker, lent to one replica.

    Args:
        wake: called when there is something to tell the borrower.
    """

    def __init__(self, number: int, wake: Callable[[], None]) -> None:
        self.number = number
        #: The latest lease; the first one comes after it.
        self.last_id = number << _WITHIN
        #: Credits that the borrower has and has not used.
        self.credits = 0
        #: Leases that the worker has not answered, revoked or not.
        self.open: set[int] = set()
        self.asking = False
        #: True when the borrower has no worker of its own for what it asks for.
        self.alone = False
        #: True once the borrower has leased what the worker held, or has ended.
        self.begun = False
        self._wake = wake
        self._credits = 0
        self._outcomes: list[worker_service_pb2.StepOutcome] = []
        self._heartbeats: set[int] = set()
        self._tell_draining = False

    def lend(self, credits_: int) -> None:
        """Lends credits; the borrower asks again if it needs more."""
        self.asking = self.alone = False
        self.credits += credits_
        self._credits += credits_
        self._wake()

    def answer(self, outcome: worker_service_pb2.StepOutcome) -> None:
        """Passes an outcome on."""
        self.open.discard(outcome.lease_id)
        self._outcomes.append(outcome)
        self._wake()

    def heard(self, lease_id: int) -> None:
        """Passes a sign of life on."""
        self._heartbeats.add(lease_id)
        self._wake()

    def drain(self) -> None:
        """Has the borrower told that it gets no more credits."""
        self._tell_draining = True
        self._wake()

    def messages(self) -> Iterator[worker_loan_service_pb2.LendWorkerRequest]:
        """Gives what the borrower is to be told."""
        message = worker_loan_service_pb2.LendWorkerRequest
        while self._outcomes:
            count = _fitting(self._outcomes)
            said, self._outcomes = self._outcomes[:count], self._outcomes[count:]
            yield message(outcomes=worker_service_pb2.StepOutcomes(outcomes=said))
        while self._heartbeats:
            beats = list(islice(self._heartbeats, _MAX_HEARTBEATS))
            self._heartbeats.difference_update(beats)
            yield message(heartbeats=worker_service_pb2.Heartbeats(lease_ids=beats))
        if self._credits:
            count, self._credits = self._credits, 0
            yield message(credits=worker_service_pb2.WorkerCredits(count=count))
        if self._tell_draining:
            self._tell_draining = False
            yield message(draining=worker_service_pb2.WorkerDraining())


def _fitting(outcomes: Sequence[worker_service_pb2.StepOutcome]) -> int:
    """Counts the outcomes that go into the next message."""
    size = 0
    for number, outcome in enumerate(outcomes[:_MAX_OUTCOMES]):
        size += outcome.ByteSize()
        if number and size > _MAX_BYTES:
            return number
    return min(len(outcomes), _MAX_OUTCOMES)


class Loans:
    """All loans of one worker's stream."""

    def __init__(self) -> None:
        self._open: dict[int, Loan] = {}
        self._last = 0
        #: True when a borrower that asks comes before what waits here.
        self._borrowers_turn = True

    def __iter__(self) -> Iterator[Loan]:
        return iter(list(self._open.values()))

    @property
    def taken(self) -> int:
        """Credits that are lent, used or not."""
        return sum(loan.credits + len(loan.open) for loan in self._open.values())

    @property
    def at_work(self) -> bool:
        """True while the worker has leases of other replicas."""
        return any(loan.open for loan in self._open.values())

    def begin(self, wake: Callable[[], None]) -> Loan:
        """Opens a loan."""
        self._last += 1
        loan = self._open[self._last] = Loan(self._last, wake)
        return loan

    def end(self, loan: Loan) -> None:
        """Closes a loan."""
        del self._open[loan.number]

    def of(self, lease_id: int) -> Loan | None:
        """Gives the loan on which a lease waits for its outcome."""
        loan = self._open.get(lease_id >> _WITHIN)
        return loan if loan is not None and lease_id in loan.open else None

    def knew(self, lease_id: int) -> bool:
        """Tells whether there may have been such a lease."""
        number = lease_id >> _WITHIN
        loan = self._open.get(number)
        return 0 < number <= self._last and (loan is None or lease_id <= loan.last_id)

    def next(self, *, idle: bool) -> Loan | None:
        """Gives the borrower that is to get credits now.

        Args:
            idle: nothing waits here for the worker.
        """
        if not idle and not self._borrowers_turn:
            return None
        for loan in self._open.values():
            if loan.asking and (idle or loan.alone):
                # The others come before it next time.
                self._open[loan.number] = self._open.pop(loan.number)
                self._borrowers_turn = False
                return loan
        return None

    def served_here(self) -> None:
        """Notes that the worker got a step of this replica: it is the borrowers' turn."""
        self._borrowers_turn = True
