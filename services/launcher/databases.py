"""The seven databases and their roles, and their migrations: made where missing, harmless to repeat."""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from services.launcher.errors import LauncherError
from services.launcher.mesh_databases import PREFIX_VARIABLE, MeshDatabases
from services.launcher.services import SERVICES

_CONNECT_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 0.05
_MIGRATIONS: Final = Path("storage", "migrations", "versions")
_INSTALLED: Final = (Path("storage", "one_trips.py"), Path("storage", "tenant_data.py"))


def migrations_of(service: str) -> tuple[Path, ...]:
    """Lists the files that make a service's schema: migrations, oldest first, then what is installed after them."""
    spec = find_spec(f"services.{service}")
    if spec is None or not spec.submodule_search_locations:
        return ()
    folder = Path(spec.submodule_search_locations[0])
    installed = (folder / file for file in _INSTALLED)
    return (*sorted((folder / _MIGRATIONS).glob("[0-9]*.py")), *(file for file in installed if file.exists()))


def heads() -> dict[str, str]:
    """Gives the last migration of each service that has a schema, by its number."""
    numbered = {service: [file for file in migrations_of(service) if file.name[:4].isdecimal()] for service in SERVICES}
    return {service: files[-1].name[:4] for service, files in numbered.items() if files}


def schema_digest(databases: MeshDatabases) -> str:
    """Sums up all names and migrations: as long as it stays, a migrated cluster needs nothing."""
    digest = hashlib.sha256(f"{databases.prefix}\0".encode())
    for service in SERVICES:
        for file in migrations_of(service):
            digest.update(f"{service}/{file.name}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


def digest_of(*parts: bytes) -> str:
    """Sums up some bytes, to tell later whether they are the same."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def is_marked(mark: Path, digest: str) -> bool:
    """Tells whether the mark in a cluster's directory says that it has all these migrations."""
    return mark.exists() and mark.read_text() == digest


async def wait_for_server(admin_url: str, seconds: float) -> None:
    """Waits until Postgres takes connections.

    Raises: LauncherError: it does not in this time, or refuses us.
    """
    import asyncpg

    end = time.monotonic() + seconds
    while True:
        try:
            connection = await asyncpg.connect(admin_url, timeout=_CONNECT_SECONDS)
        except (OSError, TimeoutError, asyncpg.CannotConnectNowError) as cause:
            if time.monotonic() >= end:
                raise LauncherError(f"Postgres takes no connections: {cause}") from cause
            await asyncio.sleep(_PAUSE_SECONDS)
        except asyncpg.PostgresError as cause:
            raise LauncherError(f"Postgres refuses the administrator: {cause}") from cause
        else:
            await connection.close()
            return


async def make_databases(
    databases: MeshDatabases,
    report: Callable[[str, float], None] | None = None,
    *,
    to: str = "head",
) -> None:
    """Makes databases and roles where missing and migrates all of them, at the same time.

    Args:
        report: told each service that is done, with its seconds.
        to: `head`, or `expand` while the release before still serves.
    Raises: LauncherError: the server cannot be reached, what is there belongs to another mesh, or a migration fails.
    """
    # One second of imports, of which the launcher itself stays free: see `migrate.py`.
    import asyncpg
    import sqlalchemy.exc

    from services.meshkit.core.errors import MeshError
    from services.meshkit.sql.migrations import migrate
    from services.meshkit.sql.roles import OwnedByAnother, RolePasswords, provision

    of_the_database = (asyncpg.PostgresError, asyncpg.InterfaceError, sqlalchemy.exc.SQLAlchemyError)

    async def make(service: str) -> None:
        began = time.monotonic()
        secrets = RolePasswords(
            app=databases.passwords[f"{service}/app"],
            maintenance=databases.passwords[f"{service}/maintenance"],
            migrator=databases.passwords[f"{service}/migrator"],
        )
        name = databases.name(service)
        try:
            urls = await provision(databases.admin_url, name, secrets, owner=databases.installation)
            if migrations_of(service):
                await migrate(f"services.{service}", urls.migrator, to=to)
        except OwnedByAnother as cause:
            raise LauncherError(
                f"{cause.message}; name those of this mesh otherwise by {PREFIX_VARIABLE} (`postgres.prefix` of the "
                f"chart), or, if it is gone for good, say `COMMENT ON ROLE {cause.role} IS NULL`, and so of all seven"
            ) from cause
        except (OSError, MeshError, *of_the_database) as cause:
            said = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
            raise LauncherError(f"the database of {service} could not be made ready: {said}") from cause
        if report is not None:
            report(service, time.monotonic() - began)

    try:
        async with asyncio.TaskGroup() as group:
            for service in SERVICES:
                group.create_task(make(service))
    except* LauncherError as failures:
        first = failures.exceptions[0]
        raise first from first.__cause__


def report_line(service: str, seconds: float) -> str:
    """Writes what `migrate.py` tells the launcher about one service."""
    return json.dumps({"service": service, "seconds": round(seconds, 3)})
