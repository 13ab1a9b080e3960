"""The three roles of a service's database, and how database and roles come to be."""

from dataclasses import dataclass
from typing import Final

import asyncpg
from sqlalchemy import URL, make_url

from services.meshkit.core.errors import ErrorKind, MeshError
from services.meshkit.sql.identifiers import checked, quoted

_ROLE_LOCK: Final = 0x636F6D69  # one session at a time makes roles: they belong to the whole cluster


#: Begins the comment of a migrator's role that says whose it is.
_OWNED_BY: Final = "Comitia, installation "


class OwnedByAnother(MeshError):
    """Database and roles of this name belong to another mesh on the same server. Nothing of them was changed."""

    kind = ErrorKind.PRECONDITION
    reason = "DATABASE_OWNED_BY_ANOTHER"

    def __init__(self, database: str, *, role: str) -> None:
        super().__init__(f"the database {database} on this server belongs to another mesh", database=database)
        self.role = role


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


async def provision(
    admin_url: str, database: str, passwords: RolePasswords | None = None, *, owner: str | None = None
) -> DatabaseUrls:
    """Makes the database and its roles where they are missing; harmless to repeat.

    Args:
        admin_url: of a role that may create databases and roles, any database of the cluster.
        passwords: set anew at each call where given.
        owner: for whom. Written beside the roles where nobody's is; None leaves and asks nothing.
    Returns: the addresses for `sql_engine` and `upgrade`.
    Raises: OwnedByAnother: they are another's.
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
        free = owner is not None and not await _is_owned(connection, database, roles.migrator, owner)
        for role, password in pairs:
            await _ensure_role(connection, role, password)
        if free:
            await _quoting(connection, "COMMENT ON ROLE %I IS %L", roles.migrator, f"{_OWNED_BY}{owner}")
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
        await _quoting(connection, "ALTER ROLE %I PASSWORD %L", role, password)


async def _is_owned(connection: "asyncpg.Connection[asyncpg.Record]", database: str, migrator: str, owner: str) -> bool:
    """Tells whether this owner's name stands beside the role already; False: nobody's does."""
    found = await connection.fetchval(
        "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = $1", migrator
    )
    if not (found or "").startswith(_OWNED_BY):
        return False
    if found != f"{_OWNED_BY}{owner}":
        raise OwnedByAnother(database, role=migrator)
    return True


async def _quoting(connection: "asyncpg.Connection[asyncpg.Record]", form: str, name: str, text: str) -> None:
    """Runs a statement that takes no parameters; the server itself quotes the name and the literal."""
    await connection.execute(await connection.fetchval("SELECT format($1, $2::text, $3::text)", form, name, text))


async def _connect(url: URL) -> "asyncpg.Connection[asyncpg.Record]":
    return await asyncpg.connect(
        url.set(drivername="postgresql").render_as_string(hide_password=False),
        timeout=10,
    )
