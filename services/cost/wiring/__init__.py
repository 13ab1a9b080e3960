"""Builds cost: the only room that names every concrete class."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from services.cost.settings import CostSettings
from services.cost.storage.tenant_data import TENANT_DATA
from services.cost.wiring.ground import ground
from services.cost.wiring.pricing import pricing
from services.cost.wiring.reporting import reporting
from services.cost.wiring.spending import spending
from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource
from services.meshkit.grpc.server import Server
from services.meshkit.sql.database_clock import ReadClock, read_clock
from services.meshkit.sql.request_ids import ForgetRequests
from services.meshkit.sql.tenant_rows import TenantRows
from services.meshkit.tenant_data.servicer import TenantData


@asynccontextmanager
async def cost(
    settings: CostSettings, *, clock: Clock, ids: IdSource, read_clock: ReadClock = read_clock
) -> AsyncGenerator[Server]:
    """Opens what cost needs and gives its server; leaving the block commits what waits and closes everything.

    Args:
        clock: of the machine, for identities and waits. Money goes by that of the database, which replicas share.
        read_clock: reads the latter.
    """
    async with ground(settings, clock=clock, ids=ids, read_clock=read_clock) as on:
        prices = await pricing(on)
        async with spending(on, prices) as spends:
            reports = await reporting(on, prices, spends)
            guard = on.guard
            yield Server(
                name="cost",
                listen=settings.listen,
                registrations=(
                    spends.registration,
                    prices.registration,
                    *reports.registrations,
                    TenantData(TenantRows("cost", on.maintenance, TENANT_DATA), tenants=guard.feed).registration,
                    *guard.registrations,
                ),
                admission=guard.admission,
                tls=on.identity.tls,
                refusals=on.audit.refusals,
                background=(
                    on.clock,
                    on.relay,
                    prices.current,
                    *spends.background,
                    *reports.background,
                    ForgetRequests(on.maintenance, clock=clock),
                    *guard.background,
                ),
                ready=guard.ready,
                metrics_listen=settings.metrics_listen,
                notice_seconds=settings.notice_seconds,
                drain_seconds=settings.drain_seconds,
                max_concurrent_calls=settings.max_concurrent_calls,
                clock=clock,
            )
