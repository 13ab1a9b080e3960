"""Opens what everything in tools stands on: databases, ways to its neighbours and out, calls in flight, guard, keys."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import grpc.aio

from comitia.guard_table import GUARDS
from services.meshkit.audit.trail import ServiceAudit, service_audit
from services.meshkit.calls.cost_holds import Operations, operations
from services.meshkit.calls.law_gate import Evaluations, evaluations
from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource
from services.meshkit.grpc.channel import channel
from services.meshkit.grpc.identity import WorkloadSigner
from services.meshkit.grpc.workload_identity import workload_identity
from services.meshkit.guard.mesh_guard import MeshGuard, mesh_guard
from services.meshkit.sql.audit_store import SqlAuditStore
from services.meshkit.sql.engine import AsyncEngine, sql_engine
from services.meshkit.sql.sealing import Sealing, sealing
from services.tools.builtins.http_reader import HttpReader, http_reader
from services.tools.settings import ToolsSettings
from services.tools.usecases.calls_in_flight import CallsInFlight


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What is open before any tool is called."""

    settings: ToolsSettings
    clock: Clock
    ids: IdSource
    app: AsyncEngine
    maintenance: AsyncEngine
    inference: grpc.aio.Channel
    pages: HttpReader
    #: A batch stream to policy.
    law: Evaluations
    #: A batch stream to cost.
    money: Operations
    in_flight: CallsInFlight
    identity: WorkloadSigner
    audit: ServiceAudit
    guard: MeshGuard
    sealed: Sealing


@asynccontextmanager
async def ground(settings: ToolsSettings, *, clock: Clock, ids: IdSource) -> AsyncGenerator[Ground]:
    """Opens it while the block runs."""
    identity = workload_identity(settings, "tools", clock=clock)
    connect = partial(channel, identity=identity)
    url = settings.database_url.get_secret_value()
    maintenance_url = settings.maintenance_database_url.get_secret_value()
    async with (
        sql_engine(url, pool_size=settings.pool_size, application_name="tools") as app,
        sql_engine(maintenance_url, pool_size=2, application_name="tools-maintenance") as maintenance,
        connect(settings.policy_target) as policy,
        connect(settings.cost_target) as cost,
        connect(settings.inference_target) as inference,
        http_reader(connections=settings.max_connections, allow_private=settings.allow_private_addresses) as pages,
        evaluations(policy, clock=clock) as law,
        operations(cost, clock=clock) as money,
        CallsInFlight(most=settings.max_tool_calls) as in_flight,
        service_audit("tools", SqlAuditStore(app=app, maintenance=maintenance), clock=clock) as audit,
        mesh_guard(settings, GUARDS, service="tools", clock=clock, workload=identity, audit=audit) as guard,
        sealing(
            settings, service="tools", app=app, maintenance=maintenance, tenants=guard.feed, clock=clock, ids=ids
        ) as sealed,
    ):
        yield Ground(
            settings=settings,
            clock=clock,
            ids=ids,
            app=app,
            maintenance=maintenance,
            inference=inference,
            pages=pages,
            law=law,
            money=money,
            in_flight=in_flight,
            identity=identity,
            audit=audit,
            guard=guard,
            sealed=sealed,
        )
