"""Violations in Postgres, numbered per tenant."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import RowMapping, Select, select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.core.identity import TenantId
from services.meshkit.sql.one_trip import one_trip
from services.meshkit.sql.scope import tenant_scope
from services.policy.domain.subject import Operation, Stage
from services.policy.domain.verdict import Action, Severity
from services.policy.domain.violation import Violation
from services.policy.storage.one_trips import ADD_VIOLATIONS
from services.policy.storage.tables import VIOLATION, VIOLATION_HEAD
from services.policy.usecases.ports import ViolationFilter


class ViolationRepository:
    """Implements `usecases.ports.ViolationStore`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def add(self, groups: Sequence[Sequence[Violation]]) -> None:
        """See `ViolationStore.add`."""
        violations = [violation for group in groups for violation in group]
        if not violations:
            return
        totals = Counter(violation.tenant for violation in violations)
        tenants = sorted(totals)
        left = Counter(totals)
        rows: list[tuple[Any, ...]] = []
        for violation in violations:
            left[violation.tenant] -= 1
            rows.append(_row_of(violation, behind=left[violation.tenant]))
        columns = [list(column) for column in zip(*rows, strict=True)]
        counts = [totals[tenant] for tenant in tenants]
        await one_trip(self._engine, tenants, ADD_VIOLATIONS, tenants, counts, *columns)

    async def newest(
        self, tenant: TenantId, wanted: ViolationFilter, *, before: int | None, most: int
    ) -> Sequence[Violation]:
        """See `ViolationStore.newest`."""
        statement = _wanted(tenant, wanted).order_by(VIOLATION.c.sequence.desc()).limit(most)
        if before is not None:
            statement = statement.where(VIOLATION.c.sequence < before)
        return await self._all(tenant, statement)

    async def following(
        self, tenant: TenantId, wanted: ViolationFilter, *, after: int, most: int
    ) -> Sequence[Violation]:
        """See `ViolationStore.following`."""
        statement = _wanted(tenant, wanted).where(VIOLATION.c.sequence > after)
        return await self._all(tenant, statement.order_by(VIOLATION.c.sequence).limit(most))

    async def heads(self, tenants: Iterable[TenantId]) -> dict[TenantId, int]:
        """See `ViolationStore.heads`."""
        statement = select(VIOLATION_HEAD.c.tenant_id, VIOLATION_HEAD.c.sequence)
        async with tenant_scope(self._engine, tenants, read_only=True) as scope:
            return {TenantId(row.tenant_id): row.sequence for row in await scope.execute(statement)}

    async def _all(self, tenant: TenantId, statement: Select[Any]) -> list[Violation]:
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            return [_violation_of(row) for row in (await scope.execute(statement)).mappings()]


def _wanted(tenant: TenantId, wanted: ViolationFilter) -> Select[Any]:
    statement = select(VIOLATION).where(VIOLATION.c.tenant_id == tenant)
    if wanted.run_id:
        # The second condition lets the partial index serve.
        statement = statement.where(VIOLATION.c.run_id == wanted.run_id, VIOLATION.c.run_id != "")
    if wanted.rule:
        statement = statement.where(VIOLATION.c.rule == wanted.rule)
    if wanted.min_severity is not None:
        statement = statement.where(VIOLATION.c.severity >= int(wanted.min_severity))
    return statement


def _row_of(violation: Violation, *, behind: int) -> tuple[Any, ...]:
    """Writes a violation in the order of `ADD_VIOLATIONS`."""
    return (
        violation.tenant,
        behind,
        violation.id,
        violation.verdict_id,
        violation.rule,
        int(violation.severity),
        int(violation.action),
        int(violation.stage),
        int(violation.operation),
        violation.rationale,
        violation.run_id,
        violation.path,
        violation.agent_name,
        violation.bundle,
        violation.created,
    )


def _violation_of(row: RowMapping) -> Violation:
    return Violation(
        id=row["id"],
        tenant=TenantId(row["tenant_id"]),
        verdict_id=row["verdict_id"],
        rule=row["rule"],
        severity=Severity(row["severity"]),
        action=Action(row["action"]),
        stage=Stage(row["stage"]),
        operation=Operation(row["operation"]),
        rationale=row["rationale"],
        run_id=row["run_id"],
        path=row["path"],
        agent_name=row["agent_name"],
        bundle=row["bundle"],
        created=row["created_time"],
        sequence=row["sequence"],
    )
