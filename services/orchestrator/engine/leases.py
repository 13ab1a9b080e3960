"""What a worker is asked to do, who has it, and until when."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, takewhile
from typing import Final

from comitia.orchestrator.v1 import journal_pb2, worker_loan_service_pb2, worker_service_pb2
from services.meshkit.core.identity import TenantId
from services.orchestrator.engine.loans import Loan, Loans
from services.orchestrator.engine.run_calls import CallKey
from services.orchestrator.engine.wire import head_of

#: Bounds of one frame of leases. A single larger lease travels alone.
MAX_FRAME_LEASES: Final = 256
MAX_FRAME_BYTES: Final = 2 * 1024 * 1024
#: Time for a step whose task names none.
_TIMEOUT_SECONDS: Final = 300.0
#: Tasks of so few bytes are remembered, so many of them.
_SHORT_TASK: Final = 256
_KNOWN_TASKS: Final = 1_024
#: The pool of steps whose task names none.
DEFAULT_POOL: Final = "default"

#: Takes the fact that settles a step.
Settle = Callable[[journal_pb2.JournalEntry], None]
#: A tenant's pool of workers. Text, whose hash is made once: it is looked up for every step.
PoolKey = str


def step_of(project: str, name: str) -> str:
    """Names a step within the project of its run, empty for none: workers get those of projects that they serve."""
    return f"{project}/{name}" if project else name


def pool_of(tenant: int, name: str) -> PoolKey:
    """Names a pool.

    Args:
        tenant: the number that its id is.
    """
    return f"{tenant:x}/{name}"


def _read(tenant: int, project: str, request: bytes) -> tuple[str, PoolKey, float, float]:
    """Reads the name of a step as `step_of` gives it, its pool, timeout and heartbeat from its task."""
    task = journal_pb2.StepTask.FromString(request)
    timeout, heartbeat = task.timeout, task.heartbeat
    return (
        step_of(project, task.name),
        pool_of(tenant, task.pool or DEFAULT_POOL),
        timeout.seconds + timeout.nanos / 1e9 or _TIMEOUT_SECONDS,
        heartbeat.seconds + heartbeat.nanos / 1e9,
    )


#: A step whose input stands in its workflow has the same task in each run.
_known = lru_cache(_KNOWN_TASKS)(_read)


class Offer:
    """A step that a worker is to make: it waits for one, or is leased to one."""

    __slots__ = (
        *("attempt", "entry", "gone", "heartbeat", "key", "lease", "lost"),
        *("name", "pool", "run_id", "settle", "tenant", "timeout"),
    )

    def __init__(
        self,
        tenant: TenantId,
        run_id: str,
        key: CallKey,
        entry: journal_pb2.JournalEntry,
        settle: Settle,
        *,
        project: str = "",
    ) -> None:
        intended = entry.call_intended
        request = intended.request
        read = _known if len(request) <= _SHORT_TASK else _read
        #: Whose run it is of.
        self.tenant = tenant
        self.run_id = run_id
        self.key = key
        #: The CallIntended fact, which holds the task. It is the run's own: what waits takes no room of its own for it.
        self.entry = entry
        self.settle = settle
        self.attempt = intended.attempt or 1
        #: Its timeout is seconds from a lease to the outcome, its heartbeat those from one to the next, 0 for none.
        self.name, self.pool, self.timeout, self.heartbeat = read(tenant.int, project, request)
        self.lease: Lease | None = None
        #: How many workers in a row were lost over it.
        self.lost = 0
        #: True once it is settled or taken back.
        self.gone = False


class Lease:
    """A step in the hands of one worker."""

    __slots__ = ("desk", "heard", "lease_id", "offer", "told", "until")

    def __init__(self, offer: Offer, desk: "Desk", lease_id: int) -> None:
        self.offer = offer
        self.desk = desk
        self.lease_id = lease_id
        #: On the monotonic clock: when it ends, and when the worker was last heard of it. Both 0 until its time begins.
        self.until = self.heard = 0.0
        #: True once it is on its way to the worker.
        self.told = False

    @property
    def live(self) -> bool:
        """False once it was answered, revoked or lost."""
        return self.offer.lease is self

    def begin(self, now: float) -> None:
        """Has its time begin, unless it has: when its worker is told, or at the first look at one that is not."""
        if not self.until:
            self.until = now + self.offer.timeout
            self.heard = now

    @property
    def due(self) -> float:
        """When somebody has to look at it next, once its time has begun."""
        heartbeat = self.offer.heartbeat
        return min(self.until, self.heard + heartbeat) if heartbeat else self.until


class Desk:
    """One worker's stream: what it takes, what it has, and what it is to be told.

    Changed by `StepPools`; whoever writes the stream is woken and takes the frames.

    Args:
        subject: who opened the stream.
        worker: name that it gave itself.
        wake: called when there is something to tell.
        projects: whose runs it serves; an empty name stands for runs of no project.
        lent: it is the worker of another replica, which keeps its credits: see `loans`.
        ids_after: numbers of leases begin after this.
    """

    def __init__(
        self,
        *,
        tenant: TenantId,
        subject: str,
        worker: str,
        pool: str,
        steps: Collection[str],
        wake: Callable[[], None],
        projects: Collection[str] = ("",),
        lent: bool = False,
        ids_after: int = 0,
    ) -> None:
        #: Whose worker it is.
        self.tenant = tenant
        self.pool = pool_of(tenant.int, pool)
        #: Who may take up again what is leased here.
        self.owner = (tenant, subject, worker)
        #: What it makes, as `step_of` gives it.
        self.steps = frozenset(step_of(project, name) for project in projects for name in steps)
        self.credits = 0
        #: By their numbers, which grow.
        self.leases: dict[int, Lease] = {}
        #: Leases that ended without an outcome; their credit comes back with one.
        self.owed: set[int] = set()
        self.last_id = ids_after
        #: The last lease that `lasting` has looked at.
        self._looked_at = ids_after
        self.draining = False
        self.lent = lent
        #: Those of this worker to other replicas, and credits that are kept for what it held of them.
        self.loans = Loans()
        self.reserved = 0
        self._wake = wake
        self._fresh: list[Lease] = []
        #: Leases of other replicas, each encoded as an element of `WorkResponse.leases`.
        self._borrowed: list[bytes] = []
        self._revoked: list[int] = []
        self._refused: list[worker_service_pb2.RefusedOutcome] = []
        self._tell_draining = False
        #: What the lender of the worker is to be told.
        self._of_loan = worker_loan_service_pb2.LendWorkerResponse()

    @property
    def taken(self) -> int:
        """Its credits, spent or not."""
        return self.credits + self.reserved + len(self.leases) + len(self.owed) + self.loans.taken

    @property
    def finished(self) -> bool:
        """True when it takes no more, and has answered all that it took."""
        return self.draining and not self.leases and not self.loans.at_work

    @property
    def untold(self) -> int:
        """How many refusals it has not been told: whoever does not read is not read on."""
        return len(self._refused)

    def lease(self, offer: Offer) -> None:
        """Leases a step to the worker."""
        self.last_id += 1
        self.credits -= 1
        lease = offer.lease = self.leases[self.last_id] = Lease(offer, self, self.last_id)
        if not self._fresh:
            self._wake()
        self._fresh.append(lease)

    def lasting(self) -> Sequence[Lease]:
        """Gives the leases that were made since it was last asked, and have not ended."""
        fresh = list(takewhile(lambda lease: lease.lease_id > self._looked_at, reversed(self.leases.values())))
        self._looked_at = self.last_id
        return fresh

    def answered(self) -> None:
        """Notes that the worker has room again for the lease that it answered. That of a lent one is its lender's."""
        if not self.lent:
            self.credits += 1

    def take_back(self, lease: Lease) -> None:
        """Ends a lease that has no outcome. One that the worker was never told of costs it nothing."""
        del self.leases[lease.lease_id]
        lease.offer.lease = None
        if lease.told:
            self.owed.add(lease.lease_id)
            self._revoked.append(lease.lease_id)
            self._wake()
        else:
            self.credits += 1

    def refuse(self, lease_id: int, reason: str) -> None:
        """Has the worker told that an outcome changed nothing."""
        self._refused.append(worker_service_pb2.RefusedOutcome(lease_id=lease_id, reason=reason))
        self._wake()

    def drain(self) -> None:
        """Has the worker told that it gets no more leases here."""
        if not self.draining:
            self.draining = self._tell_draining = True
            self._wake()
            for loan in self.loans:
                loan.drain()

    def ask(self, *, alone: bool) -> None:
        """Has the lender asked for credits."""
        self._of_loan.asking = True
        self._of_loan.alone = alone
        self._wake()

    def return_credits(self) -> None:
        """Gives the lender back what was not used."""
        if self.credits:
            self._of_loan.returned_credits += self.credits
            self.credits = 0
            self._wake()

    def pass_on(self, loan: Loan, told: worker_loan_service_pb2.LendWorkerResponse) -> None:
        """Has the worker told what a borrower says of its leases. Raises: ValueError: it leases without credits."""
        for lease in told.leases:
            if loan.credits:
                loan.credits -= 1
            elif self.reserved:
                self.reserved -= 1
            else:
                raise ValueError("a borrower leases for no credit")
            loan.open.add(lease.lease_id)
            loan.last_id = max(loan.last_id, lease.lease_id)
            self._borrowed.append(worker_service_pb2.WorkResponse(leases=[lease]).SerializeToString())
        self._revoked += [lease_id for lease_id in told.revoked_lease_ids if lease_id in loan.open]
        self._refused += told.refused
        self._wake()

    def loan_ended(self, loan: Loan) -> None:
        """Has the worker told to stop what a borrower leased that is gone."""
        self.loans.end(loan)
        self.credits += loan.credits
        self.owed |= loan.open
        self._revoked += loan.open
        self._wake()

    def frames(self, now: float, wall: float) -> Iterator[bytes]:
        """Gives all that is to be told, as encoded `WorkResponse` messages.

        Args:
            now, wall: monotonic and Unix time, seconds.
        """
        news = worker_service_pb2.WorkResponse(
            revoked_lease_ids=self._revoked, refused=self._refused, draining=self._tell_draining
        ).SerializeToString()
        if self.lent:
            # The two messages have the same fields, and what they have not in common has other numbers.
            news += self._of_loan.SerializeToString()
            self._of_loan.Clear()
        fresh, self._fresh, self._revoked, self._refused, self._tell_draining = self._fresh, [], [], [], False
        borrowed, self._borrowed = self._borrowed, []
        return _framed(news, chain(_told(fresh, now, wall - now), borrowed))


def _told(leases: Sequence[Lease], now: float, ahead: float) -> Iterator[bytes]:
    """Encodes leases as elements of `WorkResponse.leases`; each counts as told from then on.

    Args:
        now: on the monotonic clock.
        ahead: how far the wall clock is ahead of the monotonic one, seconds.
    """
    # Filled for each anew, for making a message costs more than that. Not for ever: it keeps what it was ever given.
    own, until = worker_service_pb2.Lease(), 0.0
    for lease in leases:
        offer = lease.offer
        if offer.lease is not lease:
            continue  # taken back before it was told
        lease.told = True
        lease.begin(now)
        if lease.until != until:  # most are told and end together
            until = lease.until
            own.expire_time.FromNanoseconds(int((until + ahead) * 1e9))
        own.lease_id = lease.lease_id
        own.run_id = offer.run_id
        own.path = offer.key[0]
        own.attempt = offer.attempt
        # The task as it was recorded, then the fields of the lease.
        task, rest = offer.entry.call_intended.request, own.SerializeToString()
        yield head_of(len(task) + len(rest)) + task + rest


def _framed(news: bytes, leases: Iterable[bytes]) -> Iterator[bytes]:
    """Joins encoded leases to frames within the bounds.

    Args:
        news: fields that the first frame begins with.
    """
    frame, size, held = [news], len(news), 0
    for encoded in leases:
        if held == MAX_FRAME_LEASES or (size and size + len(encoded) > MAX_FRAME_BYTES):
            yield b"".join(frame)
            frame, size, held = [], 0, 0
        frame.append(encoded)
        size += len(encoded)
        held += 1
    if size:
        yield b"".join(frame)
