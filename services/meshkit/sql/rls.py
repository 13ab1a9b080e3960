"""Puts tables under row-level security. For migrations.

Every table belongs to tenants (`tenant_table`) or stands on the short list of those that do not (`untenanted_table`);
`catalogue.py` refuses anything else.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

from services.meshkit.sql.identifiers import checked, literal, quoted
from services.meshkit.sql.roles import roles_of

if TYPE_CHECKING:
    # Only migrations have it at hand; a service does without its 9 MB.
    from alembic.operations import Operations

Verb = Literal["SELECT", "INSERT", "UPDATE", "DELETE"]

ALL_VERBS: Final[tuple[Verb, ...]] = ("SELECT", "INSERT", "UPDATE", "DELETE")
#: Start of the comment that puts a table on the list of those without tenant.
UNTENANTED: Final = "untenanted: "
APP_POLICY: Final = "tenant_rows"
MAINTENANCE_POLICY: Final = "maintenance_rows"


def tenant_table(
    op: "Operations",
    name: str,
    *,
    app: Sequence[Verb] = ALL_VERBS,
    maintenance: Sequence[Verb] = ALL_VERBS,
) -> None:
    """Forces row-level security on a table with a `tenant_id uuid NOT NULL` column.

    The form `IN (SELECT unnest(…))` is on purpose: it costs the same per row for 1 and for 50 tenants.

    Args:
        app: what requests may do to rows of their tenants.
        maintenance: what background work may do to rows of all tenants; empty for nothing.
    """
    roles = roles_of(database_of(op))
    table = quoted(name)
    mine = "tenant_id IN (SELECT unnest(current_setting('app.tenants')::uuid[]))"
    statements = [
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
        f"CREATE POLICY {APP_POLICY} ON {table} TO {quoted(roles.app)} USING ({mine}) WITH CHECK ({mine})",
        *_grants(table, roles.app, app),
    ]
    if maintenance:
        maintainer = quoted(roles.maintenance)
        statements += [
            f"CREATE POLICY {MAINTENANCE_POLICY} ON {table} TO {maintainer} USING (true) WITH CHECK (true)",
            *_grants(table, roles.maintenance, maintenance),
        ]
    run_together(op, statements)


def untenanted_table(
    op: "Operations",
    name: str,
    *,
    reason: str,
    app: Sequence[Verb] = ("SELECT",),
    maintenance: Sequence[Verb] = ALL_VERBS,
) -> None:
    """Puts a table on the list of those without tenant; the reason is kept with the table."""
    roles = roles_of(database_of(op))
    table = quoted(name)
    run_together(
        op,
        [
            f"COMMENT ON TABLE {table} IS {literal(UNTENANTED + reason)}",
            *_grants(table, roles.app, app),
            *_grants(table, roles.maintenance, maintenance),
        ],
    )


def partition(op: "Operations", name: str, *, of: str, bounds: str) -> None:
    """Makes a partition of a tenant's table. It has no grants: rows are reached through its parent only.

    Args:
        bounds: our own text, such as `FOR VALUES WITH (MODULUS 16, REMAINDER 3)`.
    """
    op.execute(f"CREATE TABLE {quoted(name)} PARTITION OF {quoted(of)} {bounds}")
    run_together(
        op,
        [
            f"ALTER TABLE {quoted(name)} ENABLE ROW LEVEL SECURITY",
            f"ALTER TABLE {quoted(name)} FORCE ROW LEVEL SECURITY",
        ],
    )


def database_of(op: "Operations") -> str:
    """Names the database that the migration runs on."""
    name = op.get_bind().engine.url.database
    if name is None:
        raise ValueError("the migration's address names no database")
    return checked(name)


def run_together(op: "Operations", statements: Sequence[str]) -> None:
    """Runs several statements in one round trip."""
    body = ";\n".join(statements)
    op.execute(f"DO $comitia$ BEGIN\n{body};\nEND $comitia$")


def _grants(table: str, role: str, verbs: Sequence[Verb]) -> list[str]:
    return [f"GRANT {', '.join(verbs)} ON {table} TO {quoted(role)}"] if verbs else []
