"""Bytes that the runs of each tenant take, and whether those in progress may take more."""

from collections import OrderedDict
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.core.tenant import KnowsTenants, rules_of
from services.meshkit.sql.scope import driver_scope
from services.meshkit.telemetry.logs import logger
from services.orchestrator.domain.errors import StorageFull

log = logger(__name__)

#: Of the tenant, over all slots.
STORED: Final = "SELECT coalesce(sum(bytes), 0)::bigint FROM storage_used WHERE tenant_id = $1"
#: What has begun at the bound may still take, in percent of the quota.
_MORE_PERCENT: Final = 10
_LOOK_SECONDS: Final = 5.0
#: Tenants whose bytes are remembered.
_MOST_TENANTS: Final = 10_000


class SqlStorageRoom:
    """Implements `worker.caller.StorageRoom`."""

    def __init__(self, *, app: AsyncEngine, tenants: KnowsTenants, clock: Clock) -> None:
        self._app = app
        self._tenants = tenants
        self._clock = clock
        #: Bytes, and when to look again.
        self._known: OrderedDict[TenantId, tuple[int, float]] = OrderedDict()

    async def check(self, tenant: TenantId) -> None:
        """See `StorageRoom.check`."""
        quota = rules_of(self._tenants, tenant).quotas.max_storage_bytes
        if not quota:
            return
        used = await self._used(tenant)
        if used * 100 > quota * (100 + _MORE_PERCENT):
            raise StorageFull(limit=quota, used=used)

    async def _used(self, tenant: TenantId) -> int:
        now = self._clock.monotonic()
        used, until = self._known.get(tenant, (0, 0.0))
        if now < until:
            return used
        # One of many calls looks; the others go by what was known.
        self._keep(tenant, used, now + _LOOK_SECONDS)
        try:
            async with driver_scope(self._app, tenant, read_only=True) as scope:
                used = await scope.driver.fetchval(STORED, tenant)
        except MeshError as error:
            # Without the database nothing is recorded either.
            log.warning("nobody can say how much a tenant stores", cause=error.message)
        self._keep(tenant, used, now + _LOOK_SECONDS)
        return used

    def _keep(self, tenant: TenantId, used: int, until: float) -> None:
        self._known[tenant] = used, until
        self._known.move_to_end(tenant)
        if len(self._known) > _MOST_TENANTS:
            self._known.popitem(last=False)
