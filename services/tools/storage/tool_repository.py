"""Tools in Postgres, as canonical JSON with its digest. A `ToolStore`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from asyncpg import Record
from sqlalchemy import RowMapping, Select, func, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import IdSource, from_uuid
from services.meshkit.sql.once import claim_once, keep_once
from services.meshkit.sql.one_trip import one_trip
from services.meshkit.sql.scope import Scope, tenant_scope
from services.tools.domain.errors import ToolVersionExists, TooManyTools
from services.tools.domain.reference import Reference, parse_version
from services.tools.domain.tool import Tool
from services.tools.storage.definition_codec import decode_definition
from services.tools.storage.one_trips import FIND_TOOLS
from services.tools.storage.tables import PK_TOOL, TOOL

#: Versions of one tenant, all tools together.
MAX_VERSIONS: Final = 10_000

_PLACE: Final = (TOOL.c.name, TOOL.c.major, TOOL.c.minor, TOOL.c.patch)


class ToolRepository:
    """Stores the tenants' tools. Rows are added, never changed."""

    def __init__(self, engine: AsyncEngine, *, ids: IdSource) -> None:
        self._engine = engine
        self._ids = ids

    async def add(self, tenant: TenantId, tool: Tool) -> Tool:
        """See `ToolStore.add`."""
        major, minor, patch = parse_version(tool.version, field="tool.version")
        statement = (
            insert(TOOL)
            .values(
                tenant_id=tenant,
                tool_id=self._ids.uuid(),
                name=tool.name,
                major=major,
                minor=minor,
                patch=patch,
                definition=tool.canonical,
                digest=tool.digest,
            )
            .on_conflict_do_nothing(constraint=PK_TOOL)
        )
        async with tenant_scope(self._engine, tenant) as scope:
            await claim_once(scope)
            added = (await scope.execute(statement)).rowcount
            stored = await self._version(scope, tenant, tool)
            if stored["digest"] != tool.digest:
                raise ToolVersionExists(tool.reference)
            if await self._count(scope, tenant) > MAX_VERSIONS:
                raise TooManyTools(MAX_VERSIONS)
            if added:
                await keep_once(scope, _tool_of(stored))
                await scope.commit()
        return _tool_of(stored)

    async def find(self, tenant: TenantId, references: Sequence[Reference]) -> Sequence[Tool]:
        """See `ToolStore.find`."""
        versions = [
            parse_version(reference.version, field="version") if reference.version else (None, None, None)
            for reference in references
        ]
        columns = [[version[place] for version in versions] for place in range(3)]
        names = [reference.name for reference in references]
        rows = await one_trip(self._engine, tenant, FIND_TOOLS, tenant, names, *columns)
        return [_tool_of(row) for row in rows]

    async def page(
        self, tenant: TenantId, *, after: tuple[str, str] | None, most: int, names: frozenset[str] | None
    ) -> Sequence[Tool]:
        """See `ToolStore.page`."""
        statement = _only(select(TOOL).where(TOOL.c.tenant_id == tenant).order_by(*_PLACE).limit(most), names)
        if after is not None:
            name, version = after
            statement = statement.where(tuple_(*_PLACE) > (name, *parse_version(version, field="page_token")))
        return await self._read(tenant, statement)

    async def newest(self, tenant: TenantId, *, most: int, names: frozenset[str] | None) -> Sequence[Tool]:
        """See `ToolStore.newest`."""
        return await self._read(tenant, _only(_highest(tenant).limit(most), names))

    async def _read(self, tenant: TenantId, statement: Select[Any]) -> list[Tool]:
        async with tenant_scope(self._engine, tenant, read_only=True) as scope:
            return [_tool_of(row) for row in (await scope.execute(statement)).mappings()]

    async def _version(self, scope: Scope, tenant: TenantId, wanted: Tool) -> RowMapping:
        version = tuple_(TOOL.c.major, TOOL.c.minor, TOOL.c.patch) == parse_version(wanted.version, field="version")
        statement = select(TOOL).where(TOOL.c.tenant_id == tenant, TOOL.c.name == wanted.name, version)
        return (await scope.execute(statement)).mappings().one()

    async def _count(self, scope: Scope, tenant: TenantId) -> int:
        statement = select(func.count()).select_from(TOOL).where(TOOL.c.tenant_id == tenant)
        return (await scope.execute(statement)).scalar_one()


def _highest(tenant: TenantId) -> Select[Any]:
    """Asks for the highest version of each tool, by name."""
    columns, higher = TOOL.c, TOOL.alias("higher").c
    is_higher = tuple_(higher.major, higher.minor, higher.patch) > tuple_(columns.major, columns.minor, columns.patch)
    beaten = select(higher.name).where(higher.tenant_id == tenant, higher.name == columns.name, is_higher).exists()
    return select(TOOL).where(columns.tenant_id == tenant, ~beaten).order_by(columns.name)


def _only(statement: Select[Any], names: frozenset[str] | None) -> Select[Any]:
    return statement if names is None else statement.where(TOOL.c.name.in_(sorted(names)))


def _tool_of(row: Record | RowMapping) -> Tool:
    found = decode_definition(bytes(row["definition"]))
    return replace(found, id=from_uuid("tool", row["tool_id"]), create_time=row["create_time"])
