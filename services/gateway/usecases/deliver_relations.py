"""Tells a server elsewhere of changes of relations that were committed here."""

from typing import Final

from services.gateway.usecases.access_ports import AccessWork, BeginAccessWork, RelationStore, UndeliveredChanges
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.telemetry.logs import logger

_EVERY_SECONDS: Final = 5.0

log = logger(__name__)


async def make_undelivered(work: AccessWork, store: RelationStore, tenant: TenantId) -> None:
    """Makes what was committed for a tenant whose model is locked. If that is rolled back it is made again."""
    for number, body in await work.changes.undelivered(tenant):
        await store.make(body)
        await work.changes.delivered(tenant, number)


class DeliverRelations:
    """Makes changes where relations are kept, in the order in which they were committed; background work, too.

    A change is committed here first, with its audit entry and what it governs. So nothing is ever changed there that is
    not on record here, whenever a process or a caller ends; and what one process leaves behind, another finds.

    Args:
        begin: opens transactions that are not the mutation a call is about.
    """

    def __init__(
        self, *, begin: BeginAccessWork, store: RelationStore, undelivered: UndeliveredChanges, clock: Clock
    ) -> None:
        self._begin = begin
        self._store = store
        self._undelivered = undelivered
        self._clock = clock

    async def of(self, tenant: TenantId) -> None:
        """Makes what was committed for a tenant. Raises: Unavailable and its kin: later, by itself."""
        async with self._begin(tenant) as work:
            # One at a time, since a later change may take back an earlier one.
            await work.models.lock(tenant)
            await make_undelivered(work, self._store, tenant)
            await work.commit()

    async def __call__(self) -> None:
        """Works until cancelled."""
        while True:
            await self.round()
            await self._clock.sleep(_EVERY_SECONDS)

    async def round(self) -> None:
        """Makes what others left behind; one tenant's trouble holds up no other."""
        try:
            tenants = await self._undelivered.tenants()
        except MeshError as error:
            log.warning("undelivered changes of relations cannot be looked up right now", error=error.message)
            return
        for tenant in tenants:
            try:
                await self.of(tenant)
            except MeshError as error:
                log.warning("changes of relations wait to be delivered", tenant=str(tenant), error=error.message)
