"""Finds versions of a definition: one by its name, pages of all, and in one trip what many references stand for."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import RowMapping, Select, Table, Text, column, func, literal, or_, select, true, tuple_
from sqlalchemy.dialects.postgresql import ARRAY

from services.meshkit.core.identity import TenantId
from services.meshkit.sql.scope import Scope
from services.orchestrator.domain.agent import parse_version


async def version_row(scope: Scope, table: Table, tenant: TenantId, name: str, version: str) -> RowMapping | None:
    """Gives the row of a version, of the highest when `version` is empty; None if there is none."""
    of = table.c
    statement = select(table).where(of.tenant_id == tenant, of.name == name)
    if version:
        statement = statement.where(of.version == version)
    statement = statement.order_by(of.major.desc(), of.minor.desc(), of.patch.desc()).limit(1)
    return (await scope.execute(statement)).mappings().one_or_none()


async def version_page(
    scope: Scope, statement: Select[Any], table: Table, *, after: tuple[str, str] | None, most: int
) -> Sequence[RowMapping]:
    """Gives rows of a statement by name, then version, those after the pair (name, version). Raises: Invalid."""
    of = table.c
    place = (of.name, of.major, of.minor, of.patch)
    if after is not None:
        name, version = after
        statement = statement.where(tuple_(*place) > (name, *parse_version(version, field="page_token")))
    return (await scope.execute(statement.order_by(*place).limit(most))).mappings().all()


async def pinned_versions(
    scope: Scope, table: Table, tenant: TenantId, references: Sequence[tuple[str, str]], columns: Sequence[str] = ()
) -> Sequence[RowMapping]:
    """Gives a row for each pair (name, version or empty) that exists: `name`, `asked`, `version` and these columns.

    An empty version stands for the highest.
    """
    if not references:
        return ()
    names, versions = (literal(list(part), ARRAY(Text)) for part in zip(*set(references), strict=True))
    asked = (
        func.unnest(names, versions)
        .table_valued(column("name", Text), column("asked", Text), name="reference")
        .render_derived()
    )
    of, wanted = table.c, asked.c
    found = (
        select(of.version, *(of[name] for name in columns))
        .where(of.tenant_id == tenant, of.name == wanted.name, or_(wanted.asked == "", of.version == wanted.asked))
        .order_by(of.major.desc(), of.minor.desc(), of.patch.desc())
        .limit(1)
        .lateral("found")
    )
    statement = select(wanted.name, wanted.asked, *found.c).select_from(asked.join(found, true()))
    return (await scope.execute(statement)).mappings().all()
