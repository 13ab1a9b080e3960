"""The buckets in Postgres: what several gateways lease from them at the same time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from services.gateway.storage.rate_buckets import SqlRateBuckets
from services.meshkit.core.rate import Ask
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.one_trip import one_trip
from services.meshkit.sql.roles import DatabaseUrls
from tests.integration.conftest import MakeDatabase


@dataclass(frozen=True, slots=True)
class Buckets:
    """The stores of three gateways over one database."""

    stores: tuple[SqlRateBuckets, ...]
    urls: DatabaseUrls


@pytest.fixture
async def shared(make_migrated: MakeDatabase) -> AsyncIterator[Buckets]:
    urls = await make_migrated("gateway")
    async with AsyncExitStack() as stack:
        engines = [
            await stack.enter_async_context(sql_engine(urls.maintenance, pool_size=2, application_name="test"))
            for _ in range(3)
        ]
        yield Buckets(tuple(SqlRateBuckets(engine) for engine in engines), urls)


def an_ask(
    bucket: str = "tenant/one/route",
    *,
    tokens: int = 1,
    spent: int = 0,
    unused: int = 0,
    per_second: float = 0.001,
    burst: float = 10,
) -> Ask:
    return Ask(bucket=bucket, per_second=per_second, burst=burst, tokens=tokens, spent=spent, unused=unused)


async def test_a_new_bucket_is_full_and_an_empty_one_gives_nothing(shared: Buckets) -> None:
    store = shared.stores[0]
    [first] = await store.lease([an_ask(tokens=7)])
    [second] = await store.lease([an_ask(tokens=7)])
    [third] = await store.lease([an_ask(tokens=1)])
    assert (first.tokens, second.tokens, third.tokens) == (7, 3, 0)
    assert third.remaining == pytest.approx(0, abs=0.01)


async def test_what_was_spent_ahead_is_booked_below_zero_and_what_was_not_used_comes_back(shared: Buckets) -> None:
    store = shared.stores[0]
    [ahead] = await store.lease([an_ask(tokens=2, spent=12)])
    [back] = await store.lease([an_ask(tokens=5, unused=6)])
    assert (ahead.tokens, round(ahead.remaining)) == (0, -2)
    assert (back.tokens, round(back.remaining)) == (4, 0)
    [full] = await store.lease([an_ask(tokens=0, unused=500)])
    assert full.remaining == 10


async def test_buckets_fill_by_the_time_of_the_database(shared: Buckets) -> None:
    store = shared.stores[0]
    await store.lease([an_ask(tokens=10, per_second=100)])
    await asyncio.sleep(0.05)
    [later] = await store.lease([an_ask(tokens=10, per_second=100)])
    assert 4 <= later.tokens <= 10


async def test_three_gateways_never_lease_a_token_twice(shared: Buckets) -> None:
    names = [f"tenant/{n}/route" for n in range(20)]

    async def drain(store: SqlRateBuckets, order: int) -> dict[str, int]:
        got = dict.fromkeys(names, 0)
        for _ in range(15):
            asked = names[::order]
            leases = await store.lease([an_ask(name, tokens=3, burst=50) for name in asked])
            for name, lease in zip(asked, leases, strict=True):
                got[name] += lease.tokens
        return got

    shares = await asyncio.gather(*(drain(store, 1 if n % 2 else -1) for n, store in enumerate(shared.stores)))
    assert {name: sum(share[name] for share in shares) for name in names} == dict.fromkeys(names, 50)


async def test_a_batch_of_a_thousand_is_one_trip(shared: Buckets, monkeypatch: pytest.MonkeyPatch) -> None:
    asks = [an_ask(f"tenant/{n}/route") for n in range(1000)]
    await shared.stores[0].lease(asks)
    trips = 0

    async def counted(*asked: Any) -> list[asyncpg.Record]:
        nonlocal trips
        trips += 1
        return await one_trip(*asked)

    monkeypatch.setattr("services.gateway.storage.rate_buckets.one_trip", counted)
    leases = await shared.stores[0].lease(asks)
    assert sum(lease.tokens for lease in leases) == 1000
    assert trips == 1


async def test_full_buckets_are_forgotten_and_others_kept(shared: Buckets) -> None:
    store = shared.stores[0]
    await store.lease([an_ask("tenant/full/route", tokens=1, per_second=1000), an_ask("tenant/low/route", tokens=9)])
    await asyncio.sleep(0.02)
    assert await store.forget_full(100) == 1
    [full], [low] = [await store.lease([an_ask(f"tenant/{name}/route", tokens=10)]) for name in ("full", "low")]
    assert (full.tokens, low.tokens) == (10, 1)


async def test_the_role_of_requests_does_not_reach_the_buckets(shared: Buckets) -> None:
    connection = await asyncpg.connect(shared.urls.app)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch("SELECT * FROM rate_bucket")
    finally:
        await connection.close()
