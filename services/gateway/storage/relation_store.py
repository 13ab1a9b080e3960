"""Relation tuples in our own database, checked by ourselves."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from sqlalchemy import ColumnElement, RowMapping, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway.relations.check import Finding, Question, check
from services.gateway.relations.model import Model
from services.gateway.relations.search import Want
from services.gateway.relations.tuples import EVERYONE, Object, RelationTuple, User
from services.gateway.storage.tables import RELATION_TUPLE
from services.gateway.usecases.access_ports import AccessWork, Changed, TupleChange, TupleFilter, TuplePage
from services.meshkit.core.errors import Internal
from services.meshkit.core.identity import TenantId
from services.meshkit.core.paging import decode_page_token, one_page
from services.meshkit.sql.scope import Scope, tenant_scope

_COLUMNS: Final = RELATION_TUPLE.c
#: The order of lists; together with the tenant the key of the table.
_ORDER: Final = (
    _COLUMNS.object_type,
    _COLUMNS.object_id,
    _COLUMNS.relation,
    _COLUMNS.user_type,
    _COLUMNS.user_id,
    _COLUMNS.user_relation,
)
#: So many rows are made into tuples before others have their turn.
_ROWS_AT_ONCE: Final = 500
#: One step of a check. Three ways to a row, each of them by an index.
_READ: Final = text("""
    SELECT found.object_type, found.object_id, found.relation, found.user_type, found.user_id, found.user_relation
    FROM unnest(CAST(:object_types AS text[]), CAST(:object_ids AS text[]), CAST(:relations AS text[]),
                CAST(:alls AS boolean[])) AS want (object_type, object_id, relation, everything)
    CROSS JOIN LATERAL (
        SELECT * FROM relation_tuple one
        WHERE want.everything AND one.tenant_id = :tenant AND one.object_type = want.object_type
          AND one.object_id = want.object_id AND one.relation = want.relation
        UNION ALL
        SELECT * FROM relation_tuple one
        WHERE NOT want.everything AND one.tenant_id = :tenant AND one.object_type = want.object_type
          AND one.object_id = want.object_id AND one.relation = want.relation
          AND one.user_type = :user_type AND one.user_id = ANY(CAST(:user_ids AS text[])) AND one.user_relation = ''
        UNION ALL
        SELECT * FROM relation_tuple one
        WHERE NOT want.everything AND one.tenant_id = :tenant AND one.object_type = want.object_type
          AND one.object_id = want.object_id AND one.relation = want.relation AND one.user_relation <> ''
    ) AS found
    LIMIT :most""")


class SqlRelationStore:
    """Implements `usecases.access_ports.RelationStore`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        # All steps of a check see the tuples of one moment: a change is seen whole or not at all.
        self._moments = engine.execution_options(isolation_level="REPEATABLE READ")

    @property
    def elsewhere(self) -> bool:
        """See `RelationStore.elsewhere`."""
        return False

    async def accept(self, model: Model) -> None:
        """See `RelationStore.accept`: whatever can be read will do."""

    async def change(self, work: AccessWork, tenant: TenantId, model: Model, change: TupleChange) -> Changed:
        """See `RelationStore.change`."""
        return await work.tuples.change(tenant, change)

    async def make(self, body: bytes) -> None:
        """See `RelationStore.make`; here everything is made within the transaction."""
        raise Internal("relations that are kept here are changed with their commit")

    async def page(self, tenant: TenantId, wanted: TupleFilter, *, after: str | None, most: int) -> TuplePage:
        """See `RelationStore.page`; by object, relation and user."""
        statement = select(RELATION_TUPLE).where(_COLUMNS.tenant_id == tenant, *_conditions(wanted))
        place = decode_page_token(after or "", str, str, str, str, str, str)
        if place is not None:
            statement = statement.where(tuple_(*_ORDER) > tuple_(*place))
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            rows = (await scope.execute(statement.order_by(*_ORDER).limit(most + 1))).mappings().all()
        page, more = one_page(rows, most, lambda row: tuple(str(row[column.name]) for column in _ORDER))
        return TuplePage([_tuple_of(row) for row in page], more or None)

    async def check(self, tenant: TenantId, model: Model, question: Question) -> Finding:
        """See `RelationStore.check`."""
        async with tenant_scope(self._moments, tenant, read_only=True) as scope:
            return await check(model, SqlTupleReader(scope, tenant), question)


class SqlTupleReader:
    """Implements `relations.check.TupleReader` within one transaction."""

    def __init__(self, scope: Scope, tenant: TenantId) -> None:
        self._scope = scope
        self._tenant = tenant

    async def read(self, wants: Sequence[Want], user: Object, *, most: int) -> Sequence[RelationTuple]:
        """See `TupleReader.read`."""
        values = {
            "tenant": self._tenant,
            "object_types": [want.node.object.type for want in wants],
            "object_ids": [want.node.object.id for want in wants],
            "relations": [want.node.relation for want in wants],
            "alls": [want.all for want in wants],
            "user_type": user.type,
            "user_ids": [user.id, EVERYONE],
            "most": most,
        }
        found: list[RelationTuple] = []
        for some in (await self._scope.execute(_READ, values)).mappings().partitions(_ROWS_AT_ONCE):
            found += map(_bare, some)
            if len(some) == _ROWS_AT_ONCE:
                # Others have their turn.
                await asyncio.sleep(0)
        return found


def _conditions(wanted: TupleFilter) -> Iterator[ColumnElement[bool]]:
    if wanted.object is not None:
        yield _COLUMNS.object_type == wanted.object.type
        yield _COLUMNS.object_id == wanted.object.id
    if wanted.relation is not None:
        yield _COLUMNS.relation == wanted.relation
    if wanted.user is not None:
        yield _COLUMNS.user_type == wanted.user.type
        yield _COLUMNS.user_id == wanted.user.id
        yield _COLUMNS.user_relation == wanted.user.relation


def _bare(row: RowMapping) -> RelationTuple:
    user = User(row["user_type"], row["user_id"], row["user_relation"])
    return RelationTuple(user, row["relation"], Object(row["object_type"], row["object_id"]))


def _tuple_of(row: RowMapping) -> RelationTuple:
    return replace(_bare(row), write_time=row["write_time"])
