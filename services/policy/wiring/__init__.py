"""Builds policy: the only room that names every concrete class."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource
from services.meshkit.grpc.server import Server, all_ready
from services.meshkit.sql.request_ids import ForgetRequests
from services.meshkit.sql.tenant_rows import TenantRows
from services.meshkit.tenant_data.servicer import TenantData
from services.policy.settings import PolicySettings
from services.policy.storage.tenant_data import TENANT_DATA
from services.policy.wiring.evaluating import evaluating
from services.policy.wiring.ground import ground
from services.policy.wiring.lawmaking import lawmaking
from services.policy.wiring.recording import recording


@asynccontextmanager
async def policy(settings: PolicySettings, *, clock: Clock, ids: IdSource) -> AsyncGenerator[Server]:
    """Opens what policy needs and gives its server; leaving the block records what waits and closes everything."""
    async with ground(settings, clock=clock, ids=ids) as on:
        made = await lawmaking(on)
        async with recording(on) as recorded:
            guard, laws = on.guard, made.laws
            yield Server(
                name="policy",
                listen=settings.listen,
                registrations=(
                    evaluating(on, laws=laws, record=recorded.record),
                    made.registration,
                    recorded.registration,
                    TenantData(TenantRows("policy", on.maintenance, TENANT_DATA), tenants=guard.feed).registration,
                    *guard.registrations,
                ),
                admission=guard.admission,
                tls=on.identity.tls,
                refusals=on.audit.refusals,
                background=(laws, recorded.news, ForgetRequests(on.maintenance, clock=clock), *guard.background),
                ready=all_ready(guard.ready, laws.ready),
                metrics_listen=settings.metrics_listen,
                notice_seconds=settings.notice_seconds,
                drain_seconds=settings.drain_seconds,
                max_concurrent_calls=settings.max_concurrent_calls,
                clock=clock,
            )
