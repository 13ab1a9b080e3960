"""Erases a tenant's rows as the statements of a service say, in batches, as role `maintenance`."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.core.identity import TenantId
from services.meshkit.core.tenant import ErasureAction, ErasureStep
from services.meshkit.sql.identifiers import quoted
from services.meshkit.sql.scope import maintenance_scope
from services.meshkit.sql.tenant_data import DATA_KEY, TableStatement

#: Rows of one transaction: so few that nobody waits for their locks.
BATCH: Final = 1_000

_DESTROY_KEYS: Final = text(
    "UPDATE data_key SET wrapped = NULL, destroyed_time = now() WHERE tenant_id = :tenant AND wrapped IS NOT NULL"
)


class TenantRows:
    """The rows of tenants in one service's database.

    Args:
        maintenance: engine of the `maintenance` role; the migrator granted it what the statements need.
    """

    def __init__(self, service: str, maintenance: AsyncEngine, statements: Sequence[TableStatement]) -> None:
        self._service = service
        self._engine = maintenance
        self._statements = statements

    async def plan(self, tenant: TenantId) -> list[ErasureStep]:
        """Counts what is there."""
        steps: list[ErasureStep] = []
        async with maintenance_scope(self._engine, read_only=True) as scope:
            for statement in self._statements:
                count = await scope.execute(_count(statement), {"tenant": tenant})
                steps.append(self._step(statement, count.scalar_one()))
        return steps

    async def destroy_keys(self, tenant: TenantId) -> int:
        """Destroys the tenant's data keys, so that nothing sealed can ever be read again; says how many those were."""
        if DATA_KEY.table not in {statement.table for statement in self._statements}:
            return 0
        async with maintenance_scope(self._engine) as scope:
            done = await scope.execute(_DESTROY_KEYS, {"tenant": tenant})
            await scope.commit()
        return done.rowcount

    async def erase(self, tenant: TenantId, statement: TableStatement) -> int:
        """Erases one batch of a table as stated; gives how many rows that were, fewer than `BATCH` for the last."""
        work = _erase(statement)
        if work is None:
            return 0
        async with maintenance_scope(self._engine) as scope:
            done = await scope.execute(work, {"tenant": tenant, "most": BATCH})
            await scope.commit()
        return done.rowcount

    async def kept(self, tenant: TenantId, statement: TableStatement) -> int:
        """Counts rows that stay."""
        async with maintenance_scope(self._engine, read_only=True) as scope:
            return (await scope.execute(_count(statement), {"tenant": tenant})).scalar_one()

    @property
    def service(self) -> str:
        """Whose rows these are."""
        return self._service

    @property
    def statements(self) -> Sequence[TableStatement]:
        """What is stated, in the order in which it is done."""
        return self._statements

    def _step(self, statement: TableStatement, count: int) -> ErasureStep:
        return ErasureStep(
            service=self._service, store=statement.table, action=statement.action, count=count, reason=statement.reason
        )


# The names below are constants of ours, checked when they were stated, and quoted.


def _count(statement: TableStatement) -> TextClause:
    return text(f"SELECT count(*) FROM {quoted(statement.table)} WHERE tenant_id = :tenant")  # noqa: S608


def _erase(statement: TableStatement) -> TextClause | None:
    table = quoted(statement.table)
    if statement.action is ErasureAction.DELETE:
        # A place alone names a row of one partition only, so the tenant is asked for twice.
        return text(
            f"DELETE FROM {table} WHERE tenant_id = :tenant AND ctid = ANY(ARRAY("  # noqa: S608
            f"SELECT ctid FROM {table} WHERE tenant_id = :tenant LIMIT :most))"
        )
    if not statement.blank:
        return None
    values = ", ".join(f"{quoted(column)} = {literal}" for column, literal in statement.blank.items())
    wordy = " OR ".join(f"{quoted(column)} <> {literal}" for column, literal in statement.blank.items())
    return text(
        f"UPDATE {table} SET {values} WHERE tenant_id = :tenant AND ({wordy}) AND ctid = ANY(ARRAY("  # noqa: S608
        f"SELECT ctid FROM {table} WHERE tenant_id = :tenant AND ({wordy}) LIMIT :most))"
    )
