"""The audit of the catalogue finds what is not guarded."""

import pytest
from sqlalchemy import text

from services.meshkit.sql.catalogue import TableGuard, audit_catalogue
from services.meshkit.sql.engine import sql_engine
from tests.integration.meshkit.sql.conftest import Engines


async def _audit(engines: Engines, *statements: str) -> dict[str, TableGuard]:
    async with sql_engine(engines.urls.migrator) as engine, engine.begin() as connection:
        app = engines.urls.app.split("//")[1].split("@")[0].split(":")[0]
        for statement in statements:
            await connection.execute(text(statement.replace("APP", f'"{app}"')))
        return {guard.name: guard for guard in await audit_catalogue(connection)}


async def test_every_table_made_by_our_helpers_is_guarded(engines: Engines) -> None:
    guards = await _audit(engines)
    assert {name: guard.faults for name, guard in guards.items() if guard.faults} == {}
    assert {name for name, guard in guards.items() if guard.untenanted} == {
        "audit_stream",
        "price",
        "schema_version_ledgerette",
    }
    assert guards["price"].untenanted == "public prices, the same for everyone's use"
    assert guards["outbox"].app_grants == ("INSERT",)


async def test_partitions_are_reached_through_their_parent_only(engines: Engines) -> None:
    guards = await _audit(
        engines,
        "CREATE TABLE fact (tenant_id uuid NOT NULL, n int) PARTITION BY HASH (tenant_id)",
        "ALTER TABLE fact ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE fact FORCE ROW LEVEL SECURITY",
        "CREATE TABLE fact_0 PARTITION OF fact FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
        "GRANT SELECT ON fact_0 TO APP",
    )
    assert guards["fact"].faults == ()
    assert len(guards["fact_0"].faults) == 2


@pytest.mark.parametrize(
    ("name", "statements"),
    [
        ("bare", ["CREATE TABLE bare (tenant_id uuid NOT NULL)"]),
        ("note", ["ALTER TABLE note NO FORCE ROW LEVEL SECURITY"]),
        ("note", ["CREATE POLICY wide ON note TO APP USING (true)"]),
        ("note", ["CREATE POLICY wide ON note USING (tenant_id IS NOT NULL)"]),
        ("note", ["GRANT TRUNCATE ON note TO APP"]),
        ("note", ["DROP POLICY tenant_rows ON note"]),
        ("note", ["ALTER TABLE note ALTER tenant_id DROP NOT NULL"]),
        ("peek", ["CREATE VIEW peek AS SELECT * FROM note", "GRANT SELECT ON peek TO APP"]),
        ("copy", ["CREATE MATERIALIZED VIEW copy AS SELECT * FROM note", "GRANT SELECT ON copy TO APP"]),
    ],
)
async def test_a_hole_is_found(engines: Engines, name: str, statements: list[str]) -> None:
    guards = await _audit(engines, *statements)
    assert guards[name].faults
    assert [other for other, guard in guards.items() if guard.faults] == [name]
