"""Makes a tenant."""

from dataclasses import dataclass

from services.gateway.domain.api_key import KeyWish
from services.gateway.domain.tenant import TENANT_PREFIX, Tenant
from services.gateway.usecases.create_api_key import KeyMaker
from services.gateway.usecases.ports import BeginWork, UnitOfWork
from services.meshkit.core.audit import note
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import Caller, Role, TenantId
from services.meshkit.core.ids import IdSource, from_uuid
from services.meshkit.core.key_secret import PresentedKey

#: The first key of every tenant.
FIRST_KEY = KeyWish(display_name="first admin key", roles=(Role.ADMIN,), project=None, expire_time=None)


@dataclass(frozen=True, slots=True)
class NewTenant:
    """A tenant and its first key."""

    tenant: Tenant
    admin_key: PresentedKey


class CreateTenant:
    """Makes a tenant and its first admin key, in one transaction that sees the new tenant and the caller's."""

    def __init__(self, *, begin: BeginWork, maker: KeyMaker, clock: Clock, ids: IdSource) -> None:
        self._begin = begin
        self._maker = maker
        self._clock = clock
        self._ids = ids

    async def __call__(self, caller: Caller, *, name: str, residency_region: str) -> NewTenant:
        """Raises: Invalid, AlreadyExists; as `once`."""
        home = caller.principal.tenant
        tenant = Tenant(
            id=TenantId(self._ids.uuid()),
            name=name,
            create_time=self._clock.now(),
            residency_region=residency_region,
        ).checked()
        async with self._begin(home, tenant.id) as work:
            await work.claim_once()
            made = NewTenant(tenant, await self._make(work, tenant))
            await work.keep_once(made)
            await work.commit()
        return made

    async def _make(self, work: UnitOfWork, tenant: Tenant) -> PresentedKey:
        await work.tenants.add(tenant)
        key, presented = self._maker.make(tenant.id, FIRST_KEY)
        await work.keys.add(key)
        note(target=from_uuid(TENANT_PREFIX, tenant.id), details={"name": tenant.name})
        return presented
