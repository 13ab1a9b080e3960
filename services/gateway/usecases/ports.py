"""What the gateway's use cases need from outside."""

from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from enum import Enum
from typing import Protocol
from uuid import UUID

from services.gateway.domain.api_key import ApiKey
from services.gateway.domain.grant import Grant, Standing
from services.gateway.domain.tenant import Tenant
from services.meshkit.core.identity import Principal, TenantId
from services.meshkit.core.tenant import TenantState


class ApiKeys(Protocol):
    """Keys within one transaction."""

    async def add(self, key: ApiKey) -> None:
        """Stores a new key."""
        ...

    async def get(self, tenant: TenantId, key: UUID) -> ApiKey:
        """Raises: NotFound."""
        ...


class Tenants(Protocol):
    """Tenants within one transaction."""

    async def add(self, tenant: Tenant) -> None:
        """Stores a new tenant. Raises: AlreadyExists: the name is taken."""
        ...

    async def get(self, tenant: TenantId) -> Tenant:
        """Raises: NotFound."""
        ...


class Grants(Protocol):
    """The grants of runs."""

    async def add(self, grant: Grant) -> UUID:
        """Stores a grant; gives its id, or the id of the grant that the run has already."""
        ...


class Work(Protocol):
    """One transaction. Leaving it without `commit` rolls everything back."""

    async def claim_once(self) -> None:
        """Claims the running request before the work, if it has an id; a repeat of it leaves by `AnsweredBefore`.

        Raises: RequestIdReused, RequestInProgress.
        """
        ...

    async def keep_once(self, made: object) -> None:
        """Keeps the answer to the running request, if it has an id: what the servicer writes of `made`."""
        ...

    async def commit(self) -> None:
        """Makes it durable."""
        ...


class UnitOfWork(Work, Protocol):
    """One transaction over tenants and keys."""

    @property
    def keys(self) -> ApiKeys: ...
    @property
    def tenants(self) -> Tenants: ...


class BeginWork(Protocol):
    """Opens a transaction that sees these tenants."""

    def __call__(self, *tenants: TenantId) -> AbstractAsyncContextManager[UnitOfWork]: ...


class IdentityDirectory(Protocol):
    """Finds identities when the tenant is not known yet: that is what they are to tell."""

    async def key(self, key: UUID) -> tuple[ApiKey, TenantState] | None:
        """Finds a key, and where its tenant is in its life."""
        ...

    async def grant(self, grant: UUID) -> tuple[Grant, Standing, TenantState] | None:
        """Finds a grant, whoever stands behind it now, and where its tenant is in its life."""
        ...

    async def tenant_named(self, name: str) -> Tenant | None:
        """Finds a tenant."""
        ...


class TenantReader(Protocol):
    """Reads tenants, for operators."""

    async def tenants(self, *, after: str | None, most: int) -> list[Tenant]:
        """Lists tenants by name, from the one after `after` on."""
        ...


class ApiKeyReader(Protocol):
    """Reads keys of one tenant, revoked ones included."""

    async def page(self, tenant: TenantId, *, project: str | None, after: UUID | None, most: int) -> list[ApiKey]:
        """Lists keys, newest first, from the one after `after` on; of one project if it is given."""
        ...


class TokenSigner(Protocol):
    """Signs access tokens."""

    def sign(self, principal: Principal, *, life: timedelta, token_id: str, grant: str | None = None) -> str:
        """Makes a token that proves `principal` for `life`."""
        ...


class Randomness(Protocol):
    """Random bytes that nobody can foresee."""

    def __call__(self, size: int, /) -> bytes: ...


class Health(Enum):
    """How a service is."""

    SERVING = "serving"
    NOT_SERVING = "not_serving"
    UNREACHABLE = "unreachable"


class HealthProbe(Protocol):
    """Asks one service how it is."""

    @property
    def name(self) -> str:
        """Name of the service."""
        ...

    async def __call__(self) -> Health:
        """Never raises: no answer is an answer."""
        ...
