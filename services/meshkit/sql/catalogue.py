"""Reads from Postgres' own catalogue what guards each table. The basis of each service's catalogue test."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.meshkit.sql.rls import UNTENANTED
from services.meshkit.sql.roles import roles_of

#: How Postgres prints the one condition that we accept for the app role.
TENANT_CONDITION: Final = "(tenant_id IN ( SELECT unnest((current_setting('app.tenants'::text))::uuid[]) AS unnest))"

_TABLES: Final = text("""
    SELECT c.relname AS name, c.relkind::text AS kind, c.relrowsecurity AS secured, c.relforcerowsecurity AS forced,
           c.relispartition AS is_partition, obj_description(c.oid, 'pg_class') AS remark,
           coalesce(c.reloptions::text[] @> ARRAY['security_invoker=true'], false) AS invoker,
           EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id'
                   AND a.attnotnull AND a.atttypid = 'uuid'::regtype) AS has_tenant,
           ARRAY(SELECT p FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) p
                 WHERE has_table_privilege(:app, c.oid, p)) AS app_grants
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
      AND n.nspname NOT LIKE 'pg\\_toast%' AND n.nspname NOT LIKE 'pg\\_temp%'
    ORDER BY c.relname""")
_POLICIES: Final = text("""
    SELECT tablename AS "table", policyname AS name, roles::text[] AS roles, cmd AS verb, permissive,
           qual AS visible, with_check AS writable
    FROM pg_policies ORDER BY tablename, policyname""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One row-level security policy."""

    name: str
    roles: tuple[str, ...]
    verb: str
    permissive: bool
    #: Condition on rows that are read, changed or deleted.
    visible: str | None
    #: Condition on rows that are written.
    writable: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TableGuard:
    """What stands between the app role and the rows of a table."""

    name: str
    #: `r` table, `p` partitioned table, `v` view, `m` materialised view, `f` foreign table.
    kind: str
    forced: bool
    policies: tuple[Policy, ...]
    #: Why the table has no tenant, if it is on the list of those.
    untenanted: str | None
    is_partition: bool
    app_grants: tuple[str, ...]
    #: What is wrong; empty when the table is guarded.
    faults: tuple[str, ...]


async def audit_catalogue(connection: AsyncConnection) -> list[TableGuard]:
    """Lists every table and view of the database with its guard, by name."""
    database = str((await connection.execute(text("SELECT current_database()"))).scalar_one())
    app = roles_of(database).app
    policies: dict[str, list[Policy]] = {}
    for row in (await connection.execute(_POLICIES)).mappings():
        policies.setdefault(row["table"], []).append(
            Policy(
                name=row["name"],
                roles=tuple(row["roles"]),
                verb=row["verb"],
                permissive=row["permissive"] == "PERMISSIVE",
                visible=row["visible"],
                writable=row["writable"],
            )
        )
    guards: list[TableGuard] = []
    for row in (await connection.execute(_TABLES, {"app": app})).mappings():
        remark: str = row["remark"] or ""
        here = tuple(policies.get(row["name"], ()))
        untenanted = remark.removeprefix(UNTENANTED) if remark.startswith(UNTENANTED) else None
        faults = _faults(
            app=app,
            kind=row["kind"],
            forced=row["secured"] and row["forced"],
            invoker=row["invoker"],
            has_tenant=row["has_tenant"],
            is_partition=row["is_partition"],
            untenanted=untenanted,
            grants=tuple(row["app_grants"]),
            policies=here,
        )
        guards.append(
            TableGuard(
                name=row["name"],
                kind=row["kind"],
                forced=row["secured"] and row["forced"],
                policies=here,
                untenanted=untenanted,
                is_partition=row["is_partition"],
                app_grants=tuple(row["app_grants"]),
                faults=faults,
            )
        )
    return guards


def _faults(
    *,
    app: str,
    kind: str,
    forced: bool,
    invoker: bool,
    has_tenant: bool,
    is_partition: bool,
    untenanted: str | None,
    grants: tuple[str, ...],
    policies: tuple[Policy, ...],
) -> tuple[str, ...]:
    faults: list[str] = []
    if "TRUNCATE" in grants:
        faults.append("the app role may TRUNCATE, which no policy stops")
    if kind in ("v", "m", "f"):
        if grants and not (kind == "v" and invoker):
            faults.append("the app role reads it with its owner's eyes; a view needs security_invoker=true")
        return tuple(faults)
    if untenanted is not None:
        if has_tenant:
            faults.append("has a tenant_id and is listed as untenanted")
        return tuple(faults)
    if not forced:
        faults.append("row-level security is not enabled and forced")
    if not has_tenant:
        faults.append("has no tenant_id uuid NOT NULL")
    if is_partition:
        if grants:
            faults.append("the app role reaches the partition beside its parent")
        return tuple(faults)
    reaching = [policy for policy in policies if policy.permissive and ({app, "public"} & set(policy.roles))]
    if grants and not reaching:
        faults.append("the app role has grants and no policy")
    faults += [
        f"policy {policy.name} lets the app role see more than its tenants"
        for policy in reaching
        if not {policy.visible, policy.writable} <= {TENANT_CONDITION, None} or policy.roles != (app,)
    ]
    return tuple(faults)
