"""Drives erasures to their end, across restarts and outages of anything."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

from services.gateway.domain.erasure import Erasure
from services.gateway.domain.tenant import LOCAL, TENANT_PREFIX, Tenant
from services.gateway.usecases.tenant_ports import (
    BeginTenantWork,
    ErasureBook,
    ErasureNotes,
    TenantLookup,
    TenantStores,
)
from services.meshkit.core.audit import mesh_acts
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError, NotFound
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.core.tenant import TenantState
from services.meshkit.telemetry.logs import logger

log = logger(__name__)


class EraseTenants:
    """Asks every service to erase what it holds of a tenant that is marked, until all are done.

    A service counts as done only when it found nothing more after `settle_seconds`: what was under way when the tenant
    was marked may have written until then.

    That a tenant is to be erased is noted outside the database before anything of it goes. So a database that was
    restored from before forgets none: what the notes name is marked again at the start.

    Args:
        settle_seconds: longer than the longest call may take.
        every_seconds: pause between two rounds.
    """

    def __init__(
        self,
        *,
        begin: BeginTenantWork,
        book: ErasureBook,
        stores: TenantStores,
        notes: ErasureNotes,
        tenants: TenantLookup,
        clock: Clock,
        settle_seconds: float,
        every_seconds: float,
    ) -> None:
        self._begin = begin
        self._book = book
        self._stores = stores
        self._notes = notes
        self._tenants = tenants
        self._clock = clock
        self._settle = timedelta(seconds=settle_seconds)
        self._every_seconds = every_seconds
        self._awake = asyncio.Event()

    def wake(self) -> None:
        """Tells it that there is something to erase."""
        self._awake.set()

    async def __call__(self) -> None:
        """Works until cancelled."""
        compared = False
        while True:
            self._awake.clear()
            compared = compared or await _tried(self.mark_again)
            # Whoever is marked does not wait for the notes, which `mark_again` needs.
            await _tried(self.round)
            await self._rest()

    async def _rest(self) -> None:
        """Waits until it is woken, at most for the pause."""

        async def pause() -> None:
            await self._clock.sleep(self._every_seconds)
            self._awake.set()

        async with asyncio.TaskGroup() as tasks:
            pausing = tasks.create_task(pause())
            await self._awake.wait()
            pausing.cancel()

    async def round(self) -> None:
        """Goes on with each erasure that nobody else is at, once."""
        seen: set[TenantId] = set()
        while (erasure := await self._book.take()) is not None:
            if erasure.tenant in seen:
                await self._book.note(erasure, hold=False)
                return
            seen.add(erasure.tenant)
            await self._go_on(erasure)

    async def mark_again(self) -> None:
        """Marks the tenants that the notes name and the database does not, because it is older. Raises: MeshError."""
        for noted in await erased_before(self._notes, self._tenants):
            with mesh_acts("gateway", noted.id, action="tenants.erased_again", target=noted.subject):
                async with self._begin(noted.id) as work:
                    tenant = await work.tenants.lock(noted.id)
                    if tenant.ended:
                        continue
                    await work.tenants.replace(tenant.changed(state=TenantState.DELETING))
                    await work.erasures.begin(noted.id, self._clock.now(), self._stores.services)
                    await work.commit()
                log.warning(
                    "the database is older than the erasure of a tenant, which begins again", erased=noted.subject
                )

    async def _go_on(self, erasure: Erasure) -> None:
        try:
            await self._notes.keep_erased(erasure.tenant)
        except MeshError as error:
            log.warning("an erasure waits for the place where it is noted", error=error.message)
            await self._book.note(erasure, hold=False)
            return
        settled = self._clock.now() - erasure.start_time >= self._settle
        for service in sorted(erasure.pending):
            erasure = await self._ask(erasure, service, settled=settled)
            await self._book.note(erasure, hold=True)
        erasure = erasure.ended(self._clock.now())
        if erasure.end_time is not None:
            await self._finish(erasure)
        await self._book.note(erasure, hold=False)

    async def _ask(self, erasure: Erasure, service: str, *, settled: bool) -> Erasure:
        try:
            erased = await self._stores.erase(service, erasure.tenant)
        except MeshError as error:
            log.info("a service has not erased a tenant yet", erased_service=service, reason=error.reason)
            return erasure
        return erasure.took(service, erased.steps, done=erased.done and settled)

    async def _finish(self, erasure: Erasure) -> None:
        """Marks the tenant as deleted, on the record."""
        name = from_uuid(TENANT_PREFIX, erasure.tenant)
        with mesh_acts("gateway", erasure.tenant, action="tenants.erased", target=name):
            async with self._begin(erasure.tenant) as work:
                tenant = await work.tenants.lock(erasure.tenant)
                if tenant.state is TenantState.DELETED:
                    return
                await work.tenants.replace(tenant.changed(state=TenantState.DELETED))
                await work.commit()
        log.info("a tenant is erased")


async def erased_before(notes: ErasureNotes, tenants: TenantLookup) -> list[Tenant]:
    """Gives the tenants that the notes name and the database knows as alive, because it is older. Raises: MeshError.

    The tenant of a fresh installation is not among them, whatever a note says: its operators would lock themselves out.
    """
    found: list[Tenant] = []
    for tenant_id in await notes.erased():
        with suppress(NotFound):
            tenant = await tenants.get(tenant_id)
            if tenant.name == LOCAL and not tenant.ended:
                log.warning("the operators' own tenant is not erased for a note; another's operator may delete it")
            elif not tenant.ended:
                found.append(tenant)
    return found


async def _tried(work: Callable[[], Awaitable[None]]) -> bool:
    """Tells whether it came to its end."""
    try:
        await work()
    except MeshError as error:
        log.warning("erasing tenants is put off", error=error.message)
        return False
    return True
