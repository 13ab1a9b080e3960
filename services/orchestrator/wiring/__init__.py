"""Puts the orchestrator together."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from services.meshkit.batching.threads import Threads
from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource
from services.meshkit.grpc.call import Drain
from services.meshkit.grpc.server import Server
from services.meshkit.guard import access_gate
from services.meshkit.sql.request_ids import ForgetRequests
from services.meshkit.sql.tenant_rows import TenantRows
from services.meshkit.tenant_data.servicer import TenantData
from services.orchestrator.clients.run_events import EraseRunEvents
from services.orchestrator.engine.engine import Engine
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.storage.blob_sweep import TenantObjects
from services.orchestrator.storage.tenant_data import TENANT_DATA
from services.orchestrator.usecases.run_access import RunAccess
from services.orchestrator.wiring.doors import doors
from services.orchestrator.wiring.driving import driving
from services.orchestrator.wiring.estimating import estimating
from services.orchestrator.wiring.ground import ground
from services.orchestrator.wiring.keeping import keeping


@asynccontextmanager
async def orchestrator(settings: OrchestratorSettings, *, clock: Clock, ids: IdSource) -> AsyncGenerator[Server]:
    """Opens everything the orchestrator needs; leaving hands its runs back and closes it."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        opened = await enter(ground(settings, clock=clock, ids=ids))
        driven = await enter(driving(opened))
        threads = await enter(
            Threads(
                "orchestrator.workflows",
                threads=settings.workflow_threads,
                most_waiting=settings.max_waiting_workflows,
            )
        )
        gate = access_gate.GatewayAccessGate(opened.neighbours.gateway, clock=clock)
        gate.show("orchestrator")
        access = RunAccess(gate)
        kept = keeping(opened, driven, access=access)
        estimates = estimating(opened, driven, access=access, recorded=kept.recorded)
        erasure = TenantData(
            TenantRows("orchestrator", opened.maintenance, TENANT_DATA),
            tenants=opened.guard.feed,
            others=(EraseRunEvents(opened.nats), TenantObjects(driven.objects)),
            before=(driven.engine.stop,),
        )
        await enter(driven.engine.running_block())
        yield Server(
            name="orchestrator",
            listen=settings.listen,
            registrations=[
                *doors(opened, driven, access=access, threads=threads, preflight=estimates.preflight),
                kept.registration,
                estimates.registration,
                erasure.registration,
                *opened.guard.registrations,
            ],
            admission=opened.guard.admission,
            tls=opened.signer.tls,
            refusals=opened.audit.refusals,
            background=(
                driven.loans.keep,
                ForgetRequests(opened.maintenance, clock=clock),
                *kept.background,
                estimates.background,
                *opened.sealed.background,
                *opened.guard.background,
            ),
            ready=opened.guard.ready,
            beside=(partial(_told_to_stop, driven.engine),),
            metrics_listen=settings.metrics_listen,
            notice_seconds=settings.notice_seconds,
            drain_seconds=settings.drain_seconds,
            max_concurrent_calls=settings.max_concurrent_calls,
            clock=clock,
        )


@asynccontextmanager
async def _told_to_stop(engine: Engine, drain: Drain) -> AsyncGenerator[None]:
    """Lets the time of calls in progress begin with the drain of the server."""
    try:
        yield
    finally:
        if not drain.broken:
            engine.told_to_stop()
