"""Builds policy: the only file that names every concrete class."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import partial

from comitia.guard_table import GUARDS
from comitia.policy.v1.policy_service_pb2_grpc import (
    add_BundleServiceServicer_to_server,
    add_PolicyServiceServicer_to_server,
    add_ViolationServiceServicer_to_server,
)
from services.meshkit.audit.trail import service_audit
from services.meshkit.batching.group_commit import GroupCommit
from services.meshkit.batching.threads import Threads
from services.meshkit.bus.bus import bus
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.ids import IdSource
from services.meshkit.grpc.server import Server, all_ready
from services.meshkit.grpc.workload_identity import workload_identity
from services.meshkit.guard.mesh_guard import mesh_guard
from services.meshkit.sql.audit_store import SqlAuditStore
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.request_ids import ForgetRequests
from services.meshkit.sql.tenant_rows import TenantRows
from services.meshkit.tenant_data.servicer import TenantData
from services.policy.clients.wakes import NatsWakes
from services.policy.rules.shipped import load_shipped
from services.policy.settings import PolicySettings
from services.policy.storage.bundle_repository import BundleRepository
from services.policy.storage.tenant_data import TENANT_DATA
from services.policy.storage.violation_repository import ViolationRepository
from services.policy.transport.bundle_servicer import BundleServicer
from services.policy.transport.policy_servicer import PolicyServicer
from services.policy.transport.violation_servicer import ViolationServicer
from services.policy.usecases.activate_bundle import ActivateBundle
from services.policy.usecases.create_bundle import CreateBundle
from services.policy.usecases.evaluate import Evaluate
from services.policy.usecases.laws import Laws
from services.policy.usecases.read_bundles import ReadBundles
from services.policy.usecases.record_violations import CommitViolations, Group, RecordViolations
from services.policy.usecases.violation_news import ViolationNews
from services.policy.usecases.watch_violations import WatchViolations


@asynccontextmanager
async def policy(settings: PolicySettings, *, clock: Clock, ids: IdSource) -> AsyncGenerator[Server]:
    """Opens what policy needs and gives its server; leaving the block records what waits and closes everything."""
    identity = workload_identity(settings, "policy", clock=clock)
    async with (
        sql_engine(
            settings.database_url.get_secret_value(), pool_size=settings.pool_size, application_name="policy"
        ) as app,
        sql_engine(
            settings.maintenance_database_url.get_secret_value(), pool_size=2, application_name="policy-maintenance"
        ) as maintenance,
        bus(settings.nats_url.get_secret_value()) as events,
        service_audit("policy", SqlAuditStore(app=app, maintenance=maintenance), clock=clock) as audit,
        mesh_guard(settings, GUARDS, service="policy", clock=clock, workload=identity, audit=audit) as guard,
        Threads("policy.threads", threads=settings.threads, most_waiting=settings.max_waiting_for_threads) as threads,
        Threads("policy.slow", threads=1, most_waiting=settings.max_waiting_slow) as slow_threads,
    ):
        wakes = NatsWakes(events)
        shipped = await threads.run(load_shipped)
        bundles = BundleRepository(app=app, maintenance=maintenance, clock=clock)
        violations = ViolationRepository(app)
        laws = Laws(
            store=bundles,
            shipped=shipped,
            wakes=wakes,
            clock=clock,
            off_loop=threads.run,
            poll_seconds=settings.law_poll_seconds,
            most_tenants=settings.max_known_tenants,
            most_bundles=settings.max_compiled_bundles,
        )
        with suppress(MeshError):  # without a database it starts too, and is not ready until it has looked
            await laws.look()
        news = ViolationNews(
            store=violations,
            wakes=wakes,
            clock=clock,
            poll_seconds=settings.watch_poll_seconds,
            most=settings.max_watches,
        )
        activate = ActivateBundle(store=bundles, shipped=shipped, laws=laws, wakes=wakes)
        create = CreateBundle(
            store=bundles,
            shipped=shipped,
            activate=activate,
            parse_off_loop=threads.run,
            clock=clock,
            ids=ids,
            most_bundles=settings.max_bundles_per_tenant,
        )
        commit = CommitViolations(store=violations, wakes=wakes, recorded=news.recorded)
        async with GroupCommit[Group, None](
            commit,
            name="policy.violations",
            max_items=settings.record_batch_items,
            max_waiting=settings.record_queue_items,
        ) as commits:
            evaluate = Evaluate(
                laws=laws,
                record=RecordViolations(commits),
                threads=threads,
                slow_threads=slow_threads,
                clock=clock,
                ids=ids,
            )
            bundle_servicer = BundleServicer(
                create=create, activate=activate, read=ReadBundles(store=bundles, shipped=shipped)
            )
            violation_servicer = ViolationServicer(
                violations=violations, watch=WatchViolations(store=violations, news=news)
            )
            yield Server(
                name="policy",
                listen=settings.listen,
                registrations=(
                    partial(add_PolicyServiceServicer_to_server, PolicyServicer(evaluate=evaluate)),
                    partial(add_BundleServiceServicer_to_server, bundle_servicer),
                    partial(add_ViolationServiceServicer_to_server, violation_servicer),
                    TenantData(TenantRows("policy", maintenance, TENANT_DATA), tenants=guard.feed).registration,
                    *guard.registrations,
                ),
                admission=guard.admission,
                tls=identity.tls,
                refusals=audit.refusals,
                background=(laws, news, ForgetRequests(maintenance, clock=clock), *guard.background),
                ready=all_ready(guard.ready, laws.ready),
                metrics_listen=settings.metrics_listen,
                drain_seconds=settings.drain_seconds,
                max_concurrent_calls=settings.max_concurrent_calls,
                clock=clock,
            )
