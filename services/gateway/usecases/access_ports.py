"""What the use cases of relations need from outside."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from services.gateway.relations.check import Finding, Question
from services.gateway.relations.model import Model
from services.gateway.relations.parse import read_model
from services.gateway.relations.tuples import Object, RelationTuple, User
from services.gateway.usecases.ports import Work
from services.meshkit.core.identity import TenantId


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantModel:
    """The model of a tenant, as it is now."""

    text: str
    #: 0 for the one that ships; grows by one with each write.
    revision: int
    #: Types about whose objects something was ever written. About others roles alone decide.
    governed: frozenset[str]
    #: How many relation tuples the tenant has.
    tuples: int = 0

    @property
    def etag(self) -> str:
        """Names this version."""
        return f"{self.revision}-{sha256(self.text.encode()).hexdigest()[:12]}"

    async def read(self) -> Model:
        """Gives the model that the text says."""
        return await read_model(self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class TupleChange:
    """Tuples to add and to remove, all or none. Each stands in one of the two, once."""

    writes: Sequence[RelationTuple]
    deletes: Sequence[RelationTuple]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """What a change did."""

    #: How many were not there before.
    written: int
    #: How many were there before.
    deleted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TupleFilter:
    """Which tuples to list; None means any."""

    object: Object | None = None
    relation: str | None = None
    user: User | None = None


@dataclass(frozen=True, slots=True)
class TuplePage:
    """Some tuples, and where to go on; None after the last."""

    tuples: Sequence[RelationTuple]
    next: str | None


class Models(Protocol):
    """Models within one transaction."""

    async def get(self, tenant: TenantId) -> TenantModel:
        """Gives the tenant's model, the one that ships when it has written none."""
        ...

    async def lock(self, tenant: TenantId) -> TenantModel:
        """Gives it like `get`, and keeps others from changing it until the transaction ends."""
        ...

    async def replace(self, tenant: TenantId, text: str) -> TenantModel:
        """Stores a new model in place of a locked one."""
        ...

    async def count(self, tenant: TenantId, grown: int) -> None:
        """Notes that the tenant has so many tuples more than before, or fewer."""
        ...

    async def govern(self, tenant: TenantId, types: frozenset[str]) -> None:
        """Notes that something was written about objects of these types."""
        ...


class Tuples(Protocol):
    """Tuples in our own database, within one transaction."""

    async def change(self, tenant: TenantId, change: TupleChange) -> Changed:
        """Adds and removes."""
        ...


class Changes(Protocol):
    """Changes to make elsewhere, within one transaction."""

    async def add(self, tenant: TenantId, body: bytes) -> None:
        """Notes a change that is to be made once this transaction is committed."""
        ...

    async def undelivered(self, tenant: TenantId) -> Sequence[tuple[int, bytes]]:
        """Gives the changes that are not known to be made, with their numbers, in the order of their commits."""
        ...

    async def delivered(self, tenant: TenantId, number: int) -> None:
        """Forgets a change that was made."""
        ...


class UndeliveredChanges(Protocol):
    """Looks for changes over all tenants."""

    async def tenants(self) -> Sequence[TenantId]:
        """Gives tenants with changes that are not known to be made."""
        ...


class AccessWork(Work, Protocol):
    """One transaction about models and relations."""

    @property
    def models(self) -> Models: ...
    @property
    def tuples(self) -> Tuples: ...
    @property
    def changes(self) -> Changes: ...


class BeginAccessWork(Protocol):
    """Opens a transaction that sees this tenant."""

    def __call__(self, tenant: TenantId, /) -> AbstractAsyncContextManager[AccessWork]: ...


class RelationStore(Protocol):
    """Where tuples are kept and checked: our own database, or an OpenFGA server."""

    @property
    def elsewhere(self) -> bool:
        """True where a transaction of ours does not reach: `change` then only notes what `make` does afterwards."""
        ...

    async def accept(self, model: Model) -> None:
        """Takes note of a model that is about to be written. Raises: ModelInvalid: the store will not have it."""
        ...

    async def change(self, work: AccessWork, tenant: TenantId, model: Model, change: TupleChange) -> Changed:
        """Adds and removes tuples that have a place in the model, within `work`.

        A store elsewhere says what the change will do as things are, and adds it to `work.changes`.
        """
        ...

    async def make(self, body: bytes) -> None:
        """Makes a change that `change` noted, elsewhere; once it is made, making it again changes nothing."""
        ...

    async def page(self, tenant: TenantId, wanted: TupleFilter, *, after: str | None, most: int) -> TuplePage:
        """Lists tuples. Raises: Invalid: `after` is no place of this list."""
        ...

    async def check(self, tenant: TenantId, model: Model, question: Question) -> Finding:
        """Answers a question about types and relations that the model has. Raises: CheckTooDeep."""
        ...


class ModelReader(Protocol):
    """Reads models, outside a transaction."""

    async def get(self, tenant: TenantId) -> TenantModel:
        """See `Models.get`."""
        ...
