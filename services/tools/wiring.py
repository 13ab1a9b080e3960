"""Builds tools: the only file that names every concrete class."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

from comitia.guard_table import GUARDS
from comitia.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from comitia.policy.v1 import policy_pb2
from comitia.tools.v1.tool_service_pb2_grpc import add_ToolServiceServicer_to_server
from services.meshkit.audit.trail import service_audit
from services.meshkit.calls.cost_holds import operations
from services.meshkit.calls.law_gate import PolicyLawGate, evaluations
from services.meshkit.calls.settled_notes import SettledNotes
from services.meshkit.calls.sweep import Sweep
from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource
from services.meshkit.grpc.channel import channel
from services.meshkit.grpc.server import Server
from services.meshkit.grpc.workload_identity import workload_identity
from services.meshkit.guard.mesh_guard import mesh_guard
from services.meshkit.sql.audit_store import SqlAuditStore
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.request_ids import ForgetRequests
from services.meshkit.sql.sealing import sealing
from services.meshkit.sql.tenant_rows import TenantRows
from services.meshkit.telemetry import metrics
from services.meshkit.tenant_data.servicer import TenantData
from services.tools.builtins.calculator import Calculator
from services.tools.builtins.executors import Executors
from services.tools.builtins.http_get import HttpGet, HttpGetTemplate
from services.tools.builtins.http_reader import http_reader
from services.tools.clients.embedder import InferenceEmbedder
from services.tools.clients.hold_client import CostHoldClient
from services.tools.clients.shared_rates import SharedRates
from services.tools.domain.compiled_schemas import CompiledSchemas
from services.tools.domain.result_cache import ResultCache
from services.tools.domain.shipped import shipped_tools
from services.tools.settings import ToolsSettings
from services.tools.storage.invocation_repository import InvocationRepository
from services.tools.storage.tenant_data import TENANT_DATA
from services.tools.storage.tool_repository import ToolRepository
from services.tools.transport.tool_servicer import ToolServicer
from services.tools.usecases.calls_in_flight import CallsInFlight
from services.tools.usecases.catalogue import Catalogue
from services.tools.usecases.invoke_tool import InvokeTool
from services.tools.usecases.judgement import Judgement
from services.tools.usecases.paid_run import PaidRun
from services.tools.usecases.register_tool import RegisterTool
from services.tools.usecases.search_tools import DefinitionVectors, SearchTools
from services.tools.usecases.stream_invoke_tool import StreamInvokeTool
from services.tools.usecases.tool_call import ToolCall


@asynccontextmanager
async def tools(settings: ToolsSettings, *, clock: Clock, ids: IdSource) -> AsyncGenerator[Server]:
    """Opens what tools needs and gives its server; leaving the block closes everything."""
    identity = workload_identity(settings, "tools", clock=clock)
    shipped = shipped_tools(settings.http_allowed_hosts)
    async with (
        sql_engine(
            settings.database_url.get_secret_value(), pool_size=settings.pool_size, application_name="tools"
        ) as app,
        sql_engine(
            settings.maintenance_database_url.get_secret_value(), pool_size=2, application_name="tools-maintenance"
        ) as maintenance,
        channel(settings.policy_target, identity=identity) as to_policy,
        channel(settings.cost_target, identity=identity) as to_cost,
        channel(settings.inference_target, identity=identity) as to_inference,
        http_reader(connections=settings.max_connections, allow_private=settings.allow_private_addresses) as reader,
        evaluations(to_policy, clock=clock) as to_law,
        operations(to_cost, clock=clock) as to_money,
        CallsInFlight(most=settings.max_tool_calls) as in_flight,
        service_audit("tools", SqlAuditStore(app=app, maintenance=maintenance), clock=clock) as audit,
        mesh_guard(settings, GUARDS, service="tools", clock=clock, workload=identity, audit=audit) as guard,
        sealing(
            settings, service="tools", app=app, maintenance=maintenance, tenants=guard.feed, clock=clock, ids=ids
        ) as sealed,
    ):
        catalogue = Catalogue(tools=ToolRepository(app, ids=ids), shipped=shipped, tenants=guard.feed)
        calls = InvocationRepository(app, maintenance, keys=sealed.keys)
        notes = SettledNotes("tools_settled_notes", calls, clock=clock)
        holds = CostHoldClient(to_money, ids=ids)
        schemas, vectors = CompiledSchemas(), DefinitionVectors()
        results = ResultCache(now=clock.monotonic, most_bytes=settings.cache_bytes)
        metrics.show_size("tools.results", results, size_bytes=lambda: results.size_bytes)
        metrics.show_size("tools.schemas", schemas)
        metrics.show_size("tools.definition_vectors", vectors)
        law = PolicyLawGate(to_law, operation=policy_pb2.OPERATION_INVOKE_TOOL)
        judgement = Judgement(law=law, schemas=schemas)
        executors = Executors(calculator=Calculator(), http_get=HttpGet(reader), template=HttpGetTemplate(reader))
        tool_call = ToolCall(
            catalogue=catalogue,
            judgement=judgement,
            paid_run=PaidRun(
                executor_of=executors.of,
                judgement=judgement,
                schemas=schemas,
                holds=holds,
                calls=calls,
                notes=notes,
                clock=clock,
            ),
            schemas=schemas,
            calls=calls,
            limits=SharedRates(guard.rates),
            cache=results,
            tenants=guard.feed,
        )
        servicer = ToolServicer(
            catalogue=catalogue,
            register_tool=RegisterTool(catalogue=catalogue),
            search_tools=SearchTools(
                catalogue=catalogue,
                embedder=InferenceEmbedder(InferenceServiceStub(to_inference), ids=ids),
                vectors=vectors,
                clock=clock,
                embed_seconds=settings.embed_seconds,
            ),
            invoke_tool=InvokeTool(tool_call=tool_call, in_flight=in_flight),
            stream_invoke_tool=StreamInvokeTool(tool_call=tool_call, in_flight=in_flight),
            clock=clock,
            ids=ids,
        )
        yield Server(
            name="tools",
            listen=settings.listen,
            registrations=(
                partial(add_ToolServiceServicer_to_server, servicer),
                TenantData(TenantRows("tools", maintenance, TENANT_DATA), tenants=guard.feed).registration,
                *guard.registrations,
            ),
            admission=guard.admission,
            tls=identity.tls,
            refusals=audit.refusals,
            background=(
                notes,
                Sweep(
                    calls=calls,
                    holds=holds,
                    clock=clock,
                    every_seconds=settings.sweep_seconds,
                    retention=timedelta(hours=settings.call_retention_hours),
                ),
                *sealed.background,
                ForgetRequests(maintenance, clock=clock),
                *guard.background,
            ),
            ready=guard.ready,
            metrics_listen=settings.metrics_listen,
            drain_seconds=settings.drain_seconds,
            max_concurrent_calls=settings.max_concurrent_calls,
            clock=clock,
        )
