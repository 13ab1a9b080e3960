"""One transaction over models and relation tuples."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from sqlalchemy import RowMapping, delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway.relations.shipped import SHIPPED_MODEL
from services.gateway.relations.tuples import RelationTuple
from services.gateway.storage.tables import ACCESS_MODEL, RELATION_CHANGE
from services.gateway.storage.work import SqlWork
from services.gateway.usecases.access_ports import Changed, TenantModel, TupleChange
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.scope import Scope, maintenance_scope, tenant_scope

_ADD: Final = text("""
    INSERT INTO relation_tuple
        (tenant_id, object_type, object_id, relation, user_type, user_id, user_relation, write_time)
    SELECT :tenant, one.*, now()
    FROM unnest(CAST(:object_types AS text[]), CAST(:object_ids AS text[]), CAST(:relations AS text[]),
                CAST(:user_types AS text[]), CAST(:user_ids AS text[]), CAST(:user_relations AS text[])) AS one
    ORDER BY one
    ON CONFLICT ON CONSTRAINT relation_tuple_pkey DO NOTHING""")
_REMOVE: Final = text("""
    DELETE FROM relation_tuple AS kept
    USING unnest(CAST(:object_types AS text[]), CAST(:object_ids AS text[]), CAST(:relations AS text[]),
                 CAST(:user_types AS text[]), CAST(:user_ids AS text[]), CAST(:user_relations AS text[]))
          AS one (object_type, object_id, relation, user_type, user_id, user_relation)
    WHERE kept.tenant_id = :tenant
      AND (kept.object_type, kept.object_id, kept.relation, kept.user_type, kept.user_id, kept.user_relation)
        = (one.object_type, one.object_id, one.relation, one.user_type, one.user_id, one.user_relation)""")
_GOVERN: Final = text("""
    INSERT INTO access_model AS kept (tenant_id, revision, governed, write_time)
    VALUES (:tenant, 0, CAST(:types AS text[]), now())
    ON CONFLICT (tenant_id) DO UPDATE
       SET governed = ARRAY(SELECT DISTINCT unnest(kept.governed || EXCLUDED.governed) ORDER BY 1)""")


class SqlAccessWork(SqlWork):
    """Implements `usecases.access_ports.AccessWork`."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self.models = SqlModels(scope)
        self.tuples = SqlTuples(scope)
        self.changes = SqlChanges(scope)


class SqlBeginAccessWork:
    """Implements `usecases.access_ports.BeginAccessWork`.

    Args:
        audited: False for work that is not the mutation a call is about.
    """

    def __init__(self, engine: AsyncEngine, *, audited: bool = True) -> None:
        self._engine = engine
        self._audited = audited

    @asynccontextmanager
    async def __call__(self, tenant: TenantId, /) -> AsyncGenerator[SqlAccessWork]:
        """See `BeginAccessWork`."""
        async with tenant_scope(self._engine, tenant, audited=self._audited) as scope:
            yield SqlAccessWork(scope)


class SqlModelReader:
    """Implements `usecases.access_ports.ModelReader`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def get(self, tenant: TenantId) -> TenantModel:
        """See `ModelReader.get`."""
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            return await SqlModels(scope).get(tenant)


class SqlModels:
    """Implements `usecases.access_ports.Models`."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def get(self, tenant: TenantId) -> TenantModel:
        """See `Models.get`."""
        statement = select(ACCESS_MODEL).where(ACCESS_MODEL.c.tenant_id == tenant)
        row = (await self._scope.execute(statement)).mappings().one_or_none()
        return TenantModel(text=SHIPPED_MODEL, revision=0, governed=frozenset()) if row is None else _model_of(row)

    async def lock(self, tenant: TenantId) -> TenantModel:
        """See `Models.lock`; a row is there afterwards."""
        await self.govern(tenant, frozenset())
        statement = select(ACCESS_MODEL).where(ACCESS_MODEL.c.tenant_id == tenant).with_for_update()
        return _model_of((await self._scope.execute(statement)).mappings().one())

    async def replace(self, tenant: TenantId, text: str) -> TenantModel:
        """See `Models.replace`."""
        statement = (
            update(ACCESS_MODEL)
            .where(ACCESS_MODEL.c.tenant_id == tenant)
            .values(model=text, revision=ACCESS_MODEL.c.revision + 1, write_time=func.now())
            .returning(ACCESS_MODEL)
        )
        return _model_of((await self._scope.execute(statement)).mappings().one())

    async def count(self, tenant: TenantId, grown: int) -> None:
        """See `Models.count`; who wrote a tuple has a row."""
        statement = update(ACCESS_MODEL).where(ACCESS_MODEL.c.tenant_id == tenant)
        await self._scope.execute(statement.values(tuples=ACCESS_MODEL.c.tuples + grown))

    async def govern(self, tenant: TenantId, types: frozenset[str]) -> None:
        """See `Models.govern`."""
        await self._scope.execute(_GOVERN, {"tenant": tenant, "types": sorted(types)})


class SqlTuples:
    """Implements `usecases.access_ports.Tuples`."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def change(self, tenant: TenantId, change: TupleChange) -> Changed:
        """See `Tuples.change`."""
        written = deleted = 0
        if change.deletes:
            deleted = (await self._scope.execute(_REMOVE, _columns(tenant, change.deletes))).rowcount
        if change.writes:
            written = (await self._scope.execute(_ADD, _columns(tenant, change.writes))).rowcount
        return Changed(written=written, deleted=deleted)


class SqlChanges:
    """Implements `usecases.access_ports.Changes`."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def add(self, tenant: TenantId, body: bytes) -> None:
        """See `Changes.add`."""
        await self._scope.execute(insert(RELATION_CHANGE).values(tenant_id=tenant, body=body))

    async def undelivered(self, tenant: TenantId) -> Sequence[tuple[int, bytes]]:
        """See `Changes.undelivered`."""
        table = RELATION_CHANGE
        statement = select(table.c.number, table.c.body).where(table.c.tenant_id == tenant).order_by(table.c.number)
        return [(row.number, row.body) for row in await self._scope.execute(statement)]

    async def delivered(self, tenant: TenantId, number: int) -> None:
        """See `Changes.delivered`."""
        table = RELATION_CHANGE
        await self._scope.execute(delete(table).where(table.c.tenant_id == tenant, table.c.number == number))


class SqlUndeliveredChanges:
    """Implements `usecases.access_ports.UndeliveredChanges`.

    Args:
        engine: of the role `maintenance`.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def tenants(self) -> Sequence[TenantId]:
        """See `UndeliveredChanges.tenants`."""
        async with maintenance_scope(self._engine, read_only=True) as scope:
            found = await scope.execute(select(RELATION_CHANGE.c.tenant_id).distinct())
            return [TenantId(tenant) for tenant in found.scalars()]


def _model_of(row: RowMapping) -> TenantModel:
    return TenantModel(
        text=row["model"] or SHIPPED_MODEL,
        revision=row["revision"],
        governed=frozenset(row["governed"]),
        tuples=row["tuples"],
    )


def _columns(tenant: TenantId, tuples: Sequence[RelationTuple]) -> dict[str, object]:
    return {
        "tenant": tenant,
        "object_types": [one.object.type for one in tuples],
        "object_ids": [one.object.id for one in tuples],
        "relations": [one.relation for one in tuples],
        "user_types": [one.user.type for one in tuples],
        "user_ids": [one.user.id for one in tuples],
        "user_relations": [one.user.relation for one in tuples],
    }
