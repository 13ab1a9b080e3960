"""Puts the gateway together."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from comitia.gateway.v1.guard_feed_service_pb2_grpc import add_GuardFeedServiceServicer_to_server
from services.gateway.settings import GatewaySettings
from services.gateway.wiring.access import access
from services.gateway.wiring.audit import audit_trail
from services.gateway.wiring.ground import ground
from services.gateway.wiring.identity import identities
from services.gateway.wiring.people import people
from services.gateway.wiring.status import mesh_status
from services.gateway.wiring.tenant import tenants
from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource
from services.meshkit.grpc.server import Server
from services.meshkit.sql.request_ids import ForgetRequests
from services.meshkit.sql.wal_archive import WalArchive


@asynccontextmanager
async def gateway(settings: GatewaySettings, *, clock: Clock, ids: IdSource) -> AsyncGenerator[Server]:
    """Gives the gateway, ready to serve; the bootstrap key is stored by then."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        on = await enter(ground(settings, clock=clock, ids=ids))
        audit = await enter(audit_trail(on))
        relations = await enter(access(on))
        users = await enter(people(on))
        identity = await enter(identities(on))
        customers = await enter(tenants(on))
        status = await enter(mesh_status(on))
        yield Server(
            name="gateway",
            listen=settings.listen,
            registrations=(
                *status,
                *customers.registrations,
                *identity.registrations,
                partial(add_GuardFeedServiceServicer_to_server, on.feed),
                users,
                relations.registration,
                audit.registration,
                *on.guard.registrations,
            ),
            admission=on.guard.admission,
            tls=on.workload.tls,
            refusals=on.audit.refusals,
            background=(
                on.news,
                ForgetRequests(on.maintenance, clock=clock),
                WalArchive(on.maintenance, clock=clock),
                *on.guard.background,
                *identity.background,
                *customers.background,
                *audit.background,
                *relations.background,
                *on.rates.background,
            ),
            metrics_listen=settings.metrics_listen,
            notice_seconds=settings.notice_seconds,
            drain_seconds=settings.drain_seconds,
            max_concurrent_calls=settings.max_concurrent_calls,
            clock=clock,
        )
