"""The transactions of one round trip: the scope decides what they see, and a call makes one memory among replicas."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from services.memory.storage.one_trips import CLAIM, RECORD, REMEMBER, RINGS, THOSE
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.one_trip import OneTrip, one_trip
from services.meshkit.testing.fake_clock import NOON
from tests.integration.memory.conftest import MemoryMesh, Neighbours, StartMemory, a_context, a_remember

TENANT, OTHER = TenantId(uuid4()), TenantId(uuid4())
SESSION = uuid4()


async def stored(engine: AsyncEngine, scope: Any, *tenants: TenantId, call_key: bytes) -> list[Any]:
    """Stores one row per tenant; gives the ids and what the transaction gives."""
    ids, count = [uuid4() for _ in tenants], len(tenants)
    columns: list[list[object]] = [
        list(tenants),
        list(ids),
        [SESSION] * count,
        ["Athena"] * count,
        ['["a", "b"]'] * count,
        [b"sealed"] * count,
        [call_key] * count,
        [b"digest"] * count,
        ["verdict_1"] * count,
        [NOON] * count,
        [NOON + timedelta(hours=1)] * count,
        [1] * count,
        [""] * count,
        [0] * count,
    ]
    return [ids, await one_trip(engine, scope, REMEMBER, *columns)]


def reads_of(memory: object) -> list[tuple[OneTrip, tuple[object, ...]]]:
    """Everything that finds or changes a row of `TENANT`."""
    return [
        (RINGS, ([TENANT], [SESSION], [NOON], [10], [""])),
        (THOSE, (TENANT, [memory], "", "")),
        (CLAIM, (TENANT, 10, timedelta(minutes=1), None)),
        (RECORD, (TENANT, [memory], [b"vector"], "model", 3, 3)),
    ]


async def test_the_scope_decides_whatever_tenant_is_asked_for(around: Neighbours) -> None:
    async with sql_engine(around.urls.app, pool_size=1) as engine:
        (memory,), nothing = await stored(engine, TENANT, TENANT, call_key=b"1")
        assert nothing == []
        for work, values in reads_of(memory):
            assert await one_trip(engine, OTHER, work, *values) == [], work.name
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await stored(engine, OTHER, TENANT, call_key=b"2")
        for work, values in reads_of(memory):
            (row,) = await one_trip(engine, TENANT, work, *values)
            assert row["memory_id"] == memory, work.name


async def test_one_row_that_is_refused_leaves_none_behind(around: Neighbours) -> None:
    async with sql_engine(around.urls.app, pool_size=1) as engine:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await stored(engine, TENANT, TENANT, OTHER, call_key=b"1")
        _, nothing = await stored(engine, TENANT, TENANT, call_key=b"1")
        assert nothing == []


async def test_what_calls_stored_before_is_given_by_tenant(around: Neighbours) -> None:
    async with sql_engine(around.urls.app, pool_size=1) as engine:
        (first,), _ = await stored(engine, TENANT, TENANT, call_key=b"1")
        _, (earlier,) = await stored(engine, {TENANT, OTHER}, TENANT, OTHER, call_key=b"1")
        assert (earlier["tenant_id"], earlier["memory_id"], earlier["tags"]) == (TENANT, first, ["a", "b"])


async def test_a_call_that_two_replicas_take_makes_one_memory(
    mesh: MemoryMesh, start_memory: StartMemory, around: Neighbours
) -> None:
    async with start_memory(data_dir=around.folder / "other") as replica:
        for number in range(10):
            request = a_remember(f"Thing {number}.", context=a_context())
            callers = [one.speaking_as(peer="orchestrator") for one in (mesh, replica)]
            answers = await asyncio.gather(*(one.call("Remember", request) for one in callers * 2))
            assert len({answer.memory.memory_id for answer in answers}) == 1
    assert len(await mesh.rows("memory_id")) == 10


async def test_the_ring_planned_while_there_is_nothing_has_its_index(around: Neighbours) -> None:
    query = RINGS.body.strip().removeprefix("RETURN QUERY ")
    connection = await asyncpg.connect(around.urls.app)
    try:
        await connection.execute("SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off")
        await connection.execute(f"PREPARE rings ({', '.join(RINGS.arguments)}) AS {query}")
        await connection.execute(f"SET app.tenants = '{{{TENANT}}}'")
        asked = f"ARRAY['{TENANT}'::uuid], ARRAY['{SESSION}'::uuid], ARRAY[now()], ARRAY[6], ARRAY['']"
        plan = await connection.fetch(f"EXPLAIN EXECUTE rings ({asked})")
    finally:
        await connection.close()
    assert "using ix_memory_ring" in str(plan)
