"""Violations are added in one round trip: each tenant's own numbers, and nothing for a tenant out of scope."""

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.core.identity import TenantId
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.one_trip import one_trip
from services.meshkit.testing.fake_clock import NOON
from services.policy.storage.one_trips import ADD_VIOLATIONS
from services.policy.storage.violation_repository import ViolationRepository
from services.policy.usecases.ports import ViolationFilter
from tests.integration.conftest import MakeDatabase

ANNA, BERT = sorted(TenantId(uuid4()) for _ in range(2))
ANY = ViolationFilter()


async def added(engine: AsyncEngine, scope: Any, *tenants: TenantId, rules: Sequence[str]) -> None:
    """Adds one violation of each rule to each tenant."""
    rows = [
        (tenant, len(rules) - place, uuid4(), "verdict_1", rule, 1, 3, 1, 1, "", "", "", "", "b@1.0.0", NOON)
        for tenant in tenants
        for place, rule in enumerate(rules, start=1)
    ]
    columns = [list(column) for column in zip(*rows, strict=True)]
    await one_trip(engine, scope, ADD_VIOLATIONS, list(tenants), [len(rules)] * len(tenants), *columns)


async def test_each_tenant_has_its_own_numbers(make_database: MakeDatabase) -> None:
    urls = await make_database("policy")
    await migrate("services.policy", urls.migrator)
    async with sql_engine(urls.app, pool_size=1) as engine:
        store = ViolationRepository(engine)
        await added(engine, ANNA, ANNA, rules=["one"])
        await added(engine, {ANNA, BERT}, ANNA, BERT, rules=["two", "three"])
        found = {tenant: await store.following(tenant, ANY, after=0, most=10) for tenant in (ANNA, BERT)}
    assert [(one.sequence, one.rule) for one in found[ANNA]] == [(1, "one"), (2, "two"), (3, "three")]
    assert [(one.sequence, one.rule) for one in found[BERT]] == [(1, "two"), (2, "three")]


async def test_a_tenant_out_of_scope_gets_nothing_and_nobody_else_either(make_database: MakeDatabase) -> None:
    urls = await make_database("policy")
    await migrate("services.policy", urls.migrator)
    async with sql_engine(urls.app, pool_size=1) as engine:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await added(engine, ANNA, ANNA, BERT, rules=["one"])
        store = ViolationRepository(engine)
        assert [await store.newest(tenant, ANY, before=None, most=10) for tenant in (ANNA, BERT)] == [[], []]
        assert await store.heads([ANNA, BERT]) == {}
