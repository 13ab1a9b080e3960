"""Two replicas on one database, outages, stops."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import asyncpg
import grpc.aio
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.grpc.errors import remote_error
from services.meshkit.sql.catalogue import audit_catalogue
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import drift, migrate
from services.meshkit.sql.scope import maintenance_scope
from services.policy.storage.tables import METADATA
from tests.integration.conftest import NatsServer
from tests.integration.policy.conftest import PolicyMesh, StartPolicy, until
from tests.support.policy import CANARY, a_bundle, an_evaluation

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def seconds_until_law(at: PolicyMesh, reference: str) -> float:
    """Gives the time until this replica judges by the bundle."""
    began = time.monotonic()

    async def judged_by_it() -> bool:
        return (await at.caller().evaluate("hello")).bundle == reference

    await until(judged_by_it)
    return time.monotonic() - began


async def test_another_replica_sees_a_new_law_within_two_seconds_without_the_bus(start_policy: StartPolicy) -> None:
    async with start_policy() as one, start_policy() as other:
        assert (await other.caller().evaluate("hello")).bundle == "ground@1.0.0"
        await one.caller().create()
        assert await seconds_until_law(other, "house@1.0.0") < 2.0
        await other.caller().create(a_bundle(version="1.1.0"))
        assert await seconds_until_law(one, "house@1.1.0") < 2.0
        await one.caller().activate("ground@1.0.0")
        assert await seconds_until_law(other, "ground@1.0.0") < 2.0


async def test_the_bus_wakes_the_other_replica_at_once(start_policy: StartPolicy, nats_server: NatsServer) -> None:
    url = SecretStr(nats_server.url.replace("nats://", f"nats://{nats_server.token}@"))
    slow = {"nats_url": url, "law_poll_seconds": 1.5, "watch_poll_seconds": 30.0}
    async with start_policy(**slow) as one, start_policy(**slow) as other:
        caller, watcher = one.caller(), other.caller()
        version = 0

        async def woken() -> bool:
            nonlocal version
            version += 1
            await watcher.evaluate("hello")
            await caller.create(a_bundle(version=f"1.0.{version}"))
            return await seconds_until_law(other, f"house@1.0.{version}") < 0.3

        await until(woken, seconds=10)  # the first may come before the buses are connected
        watch = watcher.watch()
        await asyncio.sleep(0.2)
        await caller.evaluate(CANARY)
        assert (await asyncio.wait_for(watch.read(), 5)).violation.rule == "no_canary"
        watch.cancel()


async def test_a_watch_at_one_replica_sees_what_another_records(start_policy: StartPolicy) -> None:
    async with start_policy() as one, start_policy() as other:
        await one.caller().create()
        watch = other.caller().watch()
        async with asyncio.TaskGroup() as tasks:
            for number in range(40):
                tasks.create_task((one, other)[number % 2].caller().evaluate(CANARY))
        await until_judged_everywhere(one, other)
        recorded = await one.caller().violations(page_size=500)
        seen = [(await asyncio.wait_for(watch.read(), 5)).sequence for _ in recorded]
        assert seen == list(range(1, len(recorded) + 1))
        watch.cancel()


async def until_judged_everywhere(*replicas: PolicyMesh) -> None:
    for replica in replicas:
        await seconds_until_law(replica, "house@1.0.0")


async def test_a_replica_that_stops_sends_its_watchers_elsewhere(start_policy: StartPolicy) -> None:
    async with start_policy() as other, AsyncExitStack() as outliving:
        async with start_policy() as stopping:
            await stopping.caller().create()
            await stopping.caller().evaluate(CANARY)
            address = f"127.0.0.1:{stopping.serving.port}"
            outside = await outliving.enter_async_context(grpc.aio.insecure_channel(address))
            watch = replace(stopping, inside=outside).caller().watch()
            assert (await watch.read()).sequence == 1
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watch.read()
        assert remote_error(caught.value).reason == "WATCH_INTERRUPTED"
        await seconds_until_law(other, "house@1.0.0")
        await other.caller().evaluate(CANARY)
        resumed = other.caller().watch(after_sequence=1)
        assert (await asyncio.wait_for(resumed.read(), 5)).sequence == 2
        resumed.cancel()


async def test_watchers_are_bounded(start_policy: StartPolicy) -> None:
    async with start_policy(max_watches=1) as mesh:
        await mesh.caller().create()
        await mesh.caller().evaluate(CANARY)
        first = mesh.caller().watch()
        await first.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await mesh.caller().watch().read()
        assert remote_error(caught.value).reason == "TOO_MANY_WATCHES"
        first.cancel()


async def test_bundles_of_a_tenant_are_bounded(start_policy: StartPolicy) -> None:
    async with start_policy(max_bundles_per_tenant=1) as mesh:
        await mesh.caller().create()
        with pytest.raises(Exception, match="at most 1 bundle") as caught:
            await mesh.caller().create(a_bundle(version="2.0.0"))
        assert getattr(caught.value, "reason", "") == "TOO_MANY_BUNDLES"
        await mesh.caller().create()  # the same one again is no new one


async def test_without_a_database_the_known_law_holds_and_nothing_goes_on_without_law(
    start_policy: StartPolicy, postgres: str
) -> None:
    async with start_policy() as mesh:
        caller = mesh.caller()
        await caller.create()
        assert (await caller.evaluate("fine")).allowed
        async with away(mesh, postgres):
            assert (await caller.evaluate("fine")).bundle == "house@1.0.0"
            assert await caller.refused("Evaluate", an_evaluation(CANARY)) == "unavailable/UNAVAILABLE"
            stranger = mesh.caller(tenant=TenantId(SystemIds().uuid()))
            assert await stranger.refused("Evaluate", an_evaluation("fine")) == "unavailable/NO_BUNDLE"

        async def back() -> bool:
            try:
                return not (await caller.evaluate(CANARY)).allowed
            except MeshError:
                return False

        await until(back)
        assert len(await caller.violations()) == 1


async def test_a_bundle_that_no_longer_compiles_stops_everything(start_policy: StartPolicy, postgres: str) -> None:
    async with start_policy() as mesh:
        await mesh.caller().create(keep_inactive=True)
        async with sql_engine(mesh.urls.migrator, pool_size=1) as engine, maintenance_scope(engine) as scope:
            await scope.execute(text("ALTER TABLE bundle NO FORCE ROW LEVEL SECURITY"))
            await scope.execute(text("UPDATE bundle SET source = 'rules: broken'"))
            await scope.commit()
        await mesh.caller().activate("house@1.0.0")
        assert await mesh.caller().refused("Evaluate", an_evaluation("fine")) == "unavailable/NO_BUNDLE"


async def test_every_table_is_guarded_and_described(start_policy: StartPolicy, tmp_path: Path) -> None:
    async with start_policy() as mesh:
        assert await drift("services.policy", mesh.urls.migrator, METADATA) == []
        async with sql_engine(mesh.urls.migrator, pool_size=1) as engine, engine.connect() as connection:
            guards = await audit_catalogue(connection)
        assert [guard.name for guard in guards if guard.faults] == []
        assert {guard.name for guard in guards if guard.untenanted is not None} == {
            "audit_stream",
            "law_change",
            "schema_version_policy",
        }
    await migrate("services.policy", mesh.urls.migrator, to="base", back=True)
    await migrate("services.policy", mesh.urls.migrator)


@asynccontextmanager
async def away(mesh: PolicyMesh, admin: str) -> AsyncIterator[None]:
    """Keeps the service from its database for the block."""
    database = mesh.urls.app.rpartition("/")[2].partition("?")[0]
    connection = await asyncpg.connect(admin)
    try:
        await connection.execute(f'ALTER DATABASE "{database}" CONNECTION LIMIT 0')
        await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", database)
        yield
        await connection.execute(f'ALTER DATABASE "{database}" CONNECTION LIMIT -1')
    finally:
        await connection.close()
