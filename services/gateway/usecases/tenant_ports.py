"""What the care of tenants needs from outside."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.gateway.domain.erasure import Erasure
from services.gateway.domain.tenant import Tenant
from services.gateway.usecases.ports import Work
from services.meshkit.core.identity import TenantId
from services.meshkit.core.tenant import ErasureStep


class ChangingTenants(Protocol):
    """Tenants within one transaction."""

    async def lock(self, tenant: TenantId) -> Tenant:
        """Gives a tenant and keeps others from changing it until the transaction ends. Raises: NotFound."""
        ...

    async def replace(self, tenant: Tenant) -> None:
        """Stores new values of a locked tenant. Services hear of them once it is committed."""
        ...


class Erasures(Protocol):
    """Erasures within one transaction."""

    async def begin(self, tenant: TenantId, now: datetime, services: Sequence[str]) -> None:
        """Notes that a tenant is to be erased from these services; one that is noted stays as it is."""
        ...

    async def get(self, tenant: TenantId) -> Erasure:
        """Raises: NotFound: the tenant is not being erased."""
        ...


class TenantWork(Work, Protocol):
    """One transaction about tenants and their erasure."""

    @property
    def tenants(self) -> ChangingTenants: ...
    @property
    def erasures(self) -> Erasures: ...


class BeginTenantWork(Protocol):
    """Opens a transaction that sees these tenants."""

    def __call__(self, *tenants: TenantId) -> AbstractAsyncContextManager[TenantWork]: ...


class TenantLookup(Protocol):
    """Reads tenants, outside a transaction."""

    async def get(self, tenant: TenantId) -> Tenant:
        """Raises: NotFound."""
        ...


class ErasureReader(Protocol):
    """Reads how far erasures are."""

    async def erasure(self, tenant: TenantId) -> Erasure:
        """Raises: NotFound: there is no such tenant, or it is not being erased."""
        ...


class ErasureBook(Protocol):
    """Which erasures are under way, over all tenants. One gateway at a time works on one."""

    async def take(self) -> Erasure | None:
        """Gives an erasure that is not done and that no other gateway works on, None when there is none."""
        ...

    async def note(self, erasure: Erasure, *, hold: bool) -> None:
        """Keeps how far it is; with `hold` this gateway goes on working on it, else whoever is next."""
        ...


class ErasureNotes(Protocol):
    """Which tenants are to be erased, kept outside the database, so that one that is restored forgets none."""

    async def keep_erased(self, tenant: TenantId) -> None:
        """Keeps it for good; durable when it returns. Harmless to repeat. Raises: Unavailable."""
        ...

    async def erased(self) -> Sequence[TenantId]:
        """Gives all. Raises: Unavailable."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """What one service did."""

    steps: Sequence[ErasureStep]
    done: bool


class TenantStores(Protocol):
    """What the services hold of tenants."""

    @property
    def services(self) -> Sequence[str]:
        """Names of all services that hold anything."""
        ...

    async def plan(self, tenant: TenantId) -> Mapping[str, Sequence[ErasureStep] | None]:
        """Says what each service would do; None for one that does not answer."""
        ...

    async def erase(self, service: str, tenant: TenantId) -> Erased:
        """Has one service erase what it can within its time.

        Raises: MeshError: it does not answer, or has not heard yet that the tenant is to be erased.
        """
        ...
