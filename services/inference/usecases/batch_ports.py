"""What batches need from outside: a store with leases, money by name, tokens of grants, and providers' batch APIs."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from services.inference.domain.answer import Whole
from services.inference.domain.batch_job import BatchItem, BatchJob, ItemState
from services.inference.domain.deployment import DeploymentVersion
from services.inference.domain.errors import ProviderFailure
from services.inference.domain.prompt import Prompt
from services.inference.usecases.ports import ProviderCall
from services.meshkit.calls.ports import DispatchedHold, Holds
from services.meshkit.content import CallContext, Usage
from services.meshkit.core.identity import Caller, Principal, TenantId
from services.meshkit.core.tenant import KnowsTenants


class LeaseLost(Exception):  # not for callers: whoever holds the lease now goes on
    """Another replica carries the batch on, or somebody moved it meanwhile. Nothing was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchView:
    """A batch and how many of its items are where."""

    job: BatchJob
    counts: Mapping[ItemState, int] = field(default_factory=dict[ItemState, int])


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedBatch:
    """A batch that this replica alone carries on for a while."""

    job: BatchJob
    epoch: int


class BatchReader(Protocol):
    """Reads batches of one tenant. One that is outside the caller's project is not there."""

    async def view(self, tenant: TenantId, batch_id: str, *, bound_to: str | None) -> BatchView:
        """Raises: BatchNotFound."""
        ...

    async def views(
        self, tenant: TenantId, *, bound_to: str | None, before: UUID | None, most: int
    ) -> Sequence[BatchView]:
        """Gives batches, newest first."""
        ...

    async def results(
        self, tenant: TenantId, batch_id: str, *, bound_to: str | None, after: int, most: int
    ) -> tuple[Sequence[BatchItem], bool]:
        """Gives items in their order, fewer than asked for when their answers are long, and whether there are more.

        Args:
            after: place of the last item of the page before; -1 for the first page.
        Raises: BatchNotFound.
        """
        ...


class BatchStore(BatchReader, Protocol):
    """Keeps batches, and gives each to one replica at a time, by the database's clock."""

    async def check_addable(self, tenant: TenantId) -> None:
        """Raises: AnsweredBefore: the running request was carried out before; TooManyBatches."""
        ...

    async def add(self, job: BatchJob, items: Sequence[tuple[str, bytes]]) -> BatchView:
        """Keeps a new batch.

        Args:
            items: of each the caller's id and the request, as it was asked.
        Raises: AnsweredBefore; TooManyBatches.
        """
        ...

    async def request_cancel(self, tenant: TenantId, batch_id: str, *, bound_to: str | None) -> BatchView:
        """Notes that a batch is to stop, and has it looked at soon. Raises: BatchNotFound, BatchEnded."""
        ...

    async def take(self, *, most: int, of_one_tenant: int, lease: timedelta) -> Sequence[LeasedBatch]:
        """Leases batches that are due, those waiting longest first; no other replica gets them until the lease ends.

        One that cannot be read here is left to another release.

        Args:
            of_one_tenant: leases that a tenant has at once, on all replicas. Two that take at the same moment may each
                give it one.
        """
        ...

    async def renew(self, leased: LeasedBatch, *, lease: timedelta) -> None:
        """Raises: LeaseLost."""
        ...

    async def items(self, job: BatchJob) -> Sequence[BatchItem]:
        """Gives all items in their order."""
        ...

    async def requests(self, job: BatchJob, places: Sequence[int]) -> Mapping[int, bytes]:
        """Gives what was asked, of items that have no outcome."""
        ...

    async def save(self, leased: LeasedBatch, job: BatchJob, items: Sequence[BatchItem]) -> LeasedBatch:
        """Writes what became of a batch and of some of its items, in one transaction.

        Raises: LeaseLost: somebody else carries it on; nothing was written.
        """
        ...

    async def hand_back(self, leased: LeasedBatch, *, look_in: timedelta) -> None:
        """Ends the lease and says when to look next. Harmless when it is lost."""
        ...

    async def forget(self, *, older: timedelta, most: int) -> int:
        """Deletes batches that ended so long ago; says how many."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedHold:
    """Money that is held under a name: asked for again, it is the same."""

    id: str
    #: True while it can pay for a call: it has neither expired nor been given back.
    open: bool


class BatchHolds(Holds, Protocol):
    """Holds money for what leaves later, under names that a crash does not lose."""

    async def reserve(
        self,
        principal: Principal,
        context: CallContext,
        request_id: UUID,
        *,
        provider: str,
        model: str,
        bound: Usage,
        ttl: timedelta,
    ) -> NamedHold:
        """Holds a bound, not yet as leaving: one that nobody hears of again is free once it expires.

        Raises: BUDGET_EXHAUSTED, BUDGET_DEGRADES, PRICE_UNKNOWN as cost says them; Conflict: the name stands for
            another call; Unavailable.
        """
        ...

    async def dispatch_reserved(self, principal: Principal, hold_id: str, *, life: timedelta) -> DispatchedHold:
        """Has a hold live longer and marks it as leaving now. Harmless to repeat.

        Args:
            life: counted from when it was made.
        """
        ...


class BatchPrices(Protocol):
    """Knows which models have a price of their own."""

    async def has_own(self, principal: Principal, provider: str, model: str) -> bool:
        """Says whether a price stands under exactly this name."""
        ...


class BatchTokens(Protocol):
    """Lets a batch act for its caller when that one has long gone."""

    async def issue(self, caller: Caller, batch_id: str) -> str:
        """Stores a grant and gives its id. Raises: GRANT_NEEDS_KEY as the gateway says it; Unavailable."""
        ...

    async def principal(self, job: BatchJob) -> Principal:
        """Gives an identity with a token of minutes. Raises: Unauthenticated: whoever stood behind it is gone."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCall:
    """One prompt as it goes into a batch, named by its hold."""

    call: ProviderCall

    @property
    def name(self) -> str:
        """How the provider knows it."""
        return self.call.clearance.hold.id


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """What a provider says of one prompt of a batch: an answer, a failure, or that it never asked a model."""

    #: Its hold.
    name: str
    answer: Whole | None = None
    failure: ProviderFailure | None = None
    #: Why no model was asked: `BATCH_CANCELLED` or `BATCH_EXPIRED`; empty: one was, or it failed.
    not_asked: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchProgress:
    """How far a provider is with a batch."""

    ended: bool
    #: True when it took none of it: no model was asked for anything.
    refused: bool = False
    #: Prompts of which the results will say something; None: nobody said.
    told: int | None = None


class BatchProvider(Protocol):
    """Speaks a provider's batch API. Only `submit` sends prompts, and only with a clearance for each."""

    @property
    def blind(self) -> bool:
        """True when nobody can see whose a batch is before it has ended."""
        ...

    def check(self, deployment: DeploymentVersion, prompt: Prompt) -> None:
        """Raises: ProviderRefused: its dialect cannot say this; `field` in the metadata names it."""
        ...

    async def submit(self, batch_id: str, calls: Sequence[BatchCall]) -> str:
        """Hands a batch over; gives the provider's name for it.

        Raises: ProviderFailure: nothing was taken when its charge is NOTHING; else nobody knows.
        """
        ...

    async def find(self, deployment: DeploymentVersion, batch_id: str, names: frozenset[str], since: datetime) -> str:
        """Looks for a batch that was handed over and whose name nobody heard; empty: it does not show, so far.

        Args:
            names: of its prompts.
        """
        ...

    async def look(self, deployment: DeploymentVersion, provider_id: str) -> BatchProgress:
        """Asks how far it is."""
        ...

    def results(self, deployment: DeploymentVersion, provider_id: str) -> AsyncGenerator[BatchResult]:
        """Gives what became of the prompts of a batch that has ended, in any order."""
        ...

    async def cancel(self, deployment: DeploymentVersion, provider_id: str) -> None:
        """Asks to stop. Harmless to repeat, and for one that has ended."""
        ...


class HearsOfModels(Protocol):
    """Knows whether what is known here of models is what all replicas know."""

    @property
    def heard(self) -> bool:
        """True while the database is there: only then is a model that is not known gone."""
        ...


class HearsOfTenants(KnowsTenants, Protocol):
    """Knows whether what is known here of tenants is what the gateway says of them."""

    @property
    def knows(self) -> bool:
        """False until all rules are known."""
        ...

    @property
    def is_cut(self) -> bool:
        """True when there are more tenants with rules than are kept: of one that is not there nothing is known."""
        ...


class OpenBatches(Protocol):
    """Opens the batch APIs of versions."""

    def batcher(self, version: DeploymentVersion) -> BatchProvider | None:
        """None: it does no batches. Raises: ProviderUnavailable: its key is not open."""
        ...
