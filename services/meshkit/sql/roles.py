"""The three roles of a service's database, and how database and roles come to be."""

from dataclasses import dataclass
from typing import Final

import asyncpg
from sqlalchemy import URL, make_url

from services.meshkit.sql.identifiers import checked, quoted

_ROLE_LOCK: Final = 0x636F6D69  # one session at a time makes roles: they belong to the whole cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Names of the roles of one database."""

    #: Serves requests; sees the rows of the tenants of its transaction.
    app: str
    #: Background work over all tenants, by explicit policies.
    maintenance: str
    #: Owns the tables; used by migrations only.
    migrator: str


def roles_of(database: str) -> Roles:
    """Names the roles of a database: `comitia_tools` has `comitia_tools_app` and so on."""
    checked(f"{database}_maintenance")
    return Roles(
        app=f"{database}_app",
        maintenance=f"{database}_maintenance",
        migrator=f"{database}_migrator",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseUrls:
    """Addresses of one database, by role."""

    app: str
    maintenance: str
    migrator: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RolePasswords:
    """Passwords of the three roles; None leaves the role without one, for servers that trust their socket."""

    app: str | None = None
    maintenance: str | None = None
    migrator: str | None = None


async def provision(admin_url: str, database: str, passwords: RolePasswords | None = None) -> DatabaseUrls:
    """Makes the database and its roles where they are missing; harmless to repeat.

    Args:
        admin_url: of a role that may create databases and roles, any database of the cluster.
        passwords: set anew at each call where given.
    Returns: the addresses for `sql_engine` and `upgrade`.
    """
    roles = roles_of(database)
    secrets = passwords or RolePasswords()
    pairs = (
        (roles.app, secrets.app),
        (roles.maintenance, secrets.maintenance),
        (roles.migrator, secrets.migrator),
    )
    admin = make_url(admin_url)
    connection = await _connect(admin)
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", _ROLE_LOCK)
        for role, password in pairs:
            await _ensure_role(connection, role, password)
        await connection.execute(f"GRANT {quoted(roles.maintenance)} TO {quoted(roles.migrator)}")
        await connection.execute(f"GRANT {quoted(roles.migrator)} TO CURRENT_USER")
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", database):
            await connection.execute(f"CREATE DATABASE {quoted(database)} OWNER {quoted(roles.migrator)}")
        await connection.execute(f"REVOKE ALL ON DATABASE {quoted(database)} FROM PUBLIC")
        await connection.execute(
            f"GRANT CONNECT ON DATABASE {quoted(database)} TO {quoted(roles.app)}, {quoted(roles.maintenance)}"
        )
    finally:
        await connection.close()
    here = admin.set(drivername="postgresql", database=database)
    urls = [_as(here, role, password) for role, password in pairs]
    return DatabaseUrls(app=urls[0], maintenance=urls[1], migrator=urls[2])


def _as(url: URL, role: str, password: str | None) -> str:
    # URL.create, because URL.set keeps the administrator's password when given None.
    made = URL.create(
        url.drivername,
        username=role,
        password=password,
        host=url.host,
        port=url.port,
        database=url.database,
    ).set(query=url.query)
    return made.render_as_string(hide_password=False)


async def _ensure_role(connection: "asyncpg.Connection[asyncpg.Record]", role: str, password: str | None) -> None:
    if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role):
        await connection.execute(f"CREATE ROLE {quoted(role)} LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE")
    if password is not None:
        # ALTER ROLE takes no parameters; the server itself quotes the literal.
        statement = await connection.fetchval(
            "SELECT format('ALTER ROLE %I PASSWORD %L', $1::text, $2::text)",
            role,
            password,
        )
        await connection.execute(statement)


async def _connect(url: URL) -> "asyncpg.Connection[asyncpg.Record]":
    return await asyncpg.connect(
        url.set(drivername="postgresql").render_as_string(hide_password=False),
        timeout=10,
    )
