"""Finds, in one trip, the versions that many references of a definition stand for."""

from collections.abc import Sequence

from sqlalchemy import RowMapping, Table, Text, column, func, literal, or_, select, true
from sqlalchemy.dialects.postgresql import ARRAY

from services.meshkit.core.identity import TenantId
from services.meshkit.sql.scope import Scope


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
