"""Runs a service's migrations, forwards and back.

They are files `services/<service>/storage/migrations/versions/NNNN_pre_<what>.py` (before the new code) and
`NNNN_post_<what>.py` (after it) with `revision`, `down_revision`, `upgrade(op)` and `downgrade(op)`. The operations are
an argument: alembic's global `op` belongs to one thread at a time, and seven services migrate at once. After the last,
the service's transactions of one round trip are installed (`storage/one_trips.py`), and role `maintenance` may erase
what the service says of tenants' data (`storage/tenant_data.py`).

A release is rolled out while the one before serves: `expand` brings what its code needs and takes nothing from the code
before, `head` takes away what only that needed, once nobody runs it. A table that is in use for longer than a few
seconds is not waited for, since whoever asks for it after us would wait behind us: nothing is changed then.
"""

import asyncio
import importlib.util
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final
from zlib import crc32

from alembic.autogenerate import compare_metadata
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext, StampStep
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from services.meshkit.core.errors import ErrorKind, MeshError
from services.meshkit.sql.engine import asyncpg_url
from services.meshkit.sql.identifiers import checked, quoted
from services.meshkit.sql.one_trip import MARK, OneTrip
from services.meshkit.sql.rls import UNTENANTED
from services.meshkit.sql.roles import roles_of
from services.meshkit.sql.tenant_data import MODULE, STATED, TableStatement, grants

_FILE: Final = re.compile(r"(\d{4})_(pre|post)_[a-z0-9_]+\.py")
#: Goes as far as code needs that is about to start: to the last `pre`, and through each `post` of releases before.
EXPAND: Final = "expand"
#: Waiting for a table longer than this gives up. Calls that come meanwhile wait behind a migration that waits.
LOCK_SECONDS: Final = 5.0
#: Postgres' word for that.
_LOCK_NOT_AVAILABLE: Final = "55P03"
_LOCK_SPACE: Final = 0x636F6D
_Plan = Callable[[Any, Any], Iterable[StampStep]]  # alembic's own shape: heads in any of its forms, and its context


class TableInUse(MeshError):
    """A migration waits for no table that others use for long. Run it again; the release before goes on meanwhile."""

    kind = ErrorKind.UNAVAILABLE
    reason = "TABLE_IN_USE"

    def __init__(self, service: str, *, seconds: float) -> None:
        super().__init__(
            f"a table of {service} was in use for longer than {seconds:g} s, so nothing was changed; run it again",
            service=service,
        )


def upgrade(service_package: str, url: str, *, to: str = "head") -> None:
    """Brings a service's database up to a revision. For threads without a running loop; see `migrate`.

    Args:
        service_package: `services.tools`.
        url: of the `migrator` role, or of an administrator, who then acts as that role.
        to: `head`, `expand` or a number such as `0007`.
    """
    asyncio.run(migrate(service_package, url, to=to))


def downgrade(service_package: str, url: str, *, to: str = "base") -> None:
    """Takes a service's database back to a revision; `base` is before the first."""
    asyncio.run(migrate(service_package, url, to=to, back=True))


async def migrate(
    service_package: str, url: str, *, to: str = "head", back: bool = False, lock_seconds: float = LOCK_SECONDS
) -> None:
    """Moves a service's database to a revision, all steps in one transaction.

    Args:
        lock_seconds: longest wait for a table that is in use.
    Raises: TableInUse: it was in use for longer. As after any failure, nothing has changed.
    Concurrency: one runner per service and database at a time, by an advisory lock; the others wait, then find
    nothing to do.
    """
    script = _scripts(service_package)
    service = service_package.rpartition(".")[2]

    def plan(heads: Any, _context: Any) -> Any:
        if to == EXPAND:
            return _before_the_code(script, heads)
        return script._downgrade_revs(to, heads) if back else script._upgrade_revs(to, heads)  # pyright: ignore[reportPrivateUsage]

    # On the way to an older revision neither functions nor statements of this release fit.
    whole = not back and to in ("head", EXPAND)
    work = () if back else _one_trips(service_package)
    stated = _tenant_data(service_package) if whole else ()
    run = partial(_run, service=service, plan=plan, one_trips=work, stated=stated, lock_seconds=lock_seconds)
    try:
        await _on_connection(url, run)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
            raise
        raise TableInUse(service, seconds=lock_seconds) from error


async def drift(service_package: str, url: str, tables: MetaData) -> list[str]:
    """Lists where `tables.py` and the migrated database differ; empty when they agree."""
    service = service_package.rpartition(".")[2]
    found: list[str] = []

    def compare(connection: Connection) -> None:
        # A partition is described by its parent; alembic would take it for a table nobody asked for.
        partitions = set(connection.execute(text("SELECT inhrelid::regclass::text FROM pg_inherits")).scalars())

        def is_described(name: str | None, kind: str, _parents: object) -> bool:
            return kind != "table" or name not in partitions

        context = MigrationContext.configure(
            connection,
            opts={"version_table": version_table(service), "compare_type": True, "include_name": is_described},
        )
        found.extend(
            str(difference)
            for difference in compare_metadata(context, tables)
            if not str(difference[0]).endswith("_table_comment")  # the list of untenanted tables lives in comments
        )

    await _on_connection(url, compare)
    return found


def _before_the_code(script: ScriptDirectory, heads: Any) -> Any:
    """Gives the steps that code needs which is about to start; those at the end that only take away are left."""
    steps = list(script._upgrade_revs("head", heads))  # pyright: ignore[reportPrivateUsage]
    while steps and _phase(Path(steps[-1].revision.path)) == "post":
        steps.pop()
    return steps


def _phase(file: Path) -> str:
    found = _FILE.fullmatch(file.name)
    assert found is not None  # `_scripts` looked at the names
    return found[2]


def version_table(service: str) -> str:
    """Names the table that keeps a service's revision."""
    return checked(f"schema_version_{service}")


def _scripts(service_package: str) -> ScriptDirectory:
    spec = importlib.util.find_spec(service_package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"{service_package} is no package")
    folder = Path(spec.submodule_search_locations[0], "storage", "migrations", "versions")
    for file in folder.glob("*.py"):
        if file.name != "__init__.py" and _FILE.fullmatch(file.name) is None:
            raise ValueError(f"{file.name} must be called NNNN_pre_<what>.py or NNNN_post_<what>.py")
    return ScriptDirectory(str(folder.parent), version_locations=[str(folder)])


async def _on_connection(url: str, work: Callable[[Connection], None]) -> None:
    engine = create_async_engine(asyncpg_url(url), poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(work)
            await connection.commit()
    finally:
        await engine.dispose()


def _one_trips(service_package: str) -> Sequence[OneTrip]:
    """Finds the transactions of one round trip that a service lists as `ONE_TRIPS`, if it has any."""
    name = f"{service_package}.storage.one_trips"
    if importlib.util.find_spec(name) is None:
        return ()
    listed: tuple[OneTrip, ...] = importlib.import_module(name).ONE_TRIPS
    return listed


def _tenant_data(service_package: str) -> Sequence[TableStatement]:
    """Finds what a service says of tenants' data, if it keeps any."""
    name = f"{service_package}.storage.{MODULE}"
    if importlib.util.find_spec(name) is None:
        return ()
    stated: tuple[TableStatement, ...] = getattr(importlib.import_module(name), STATED)
    return stated


def _run(
    connection: Connection,
    *,
    service: str,
    plan: _Plan,
    one_trips: Sequence[OneTrip],
    stated: Sequence[TableStatement],
    lock_seconds: float,
) -> None:
    table = version_table(service)
    connection.execute(
        text("SELECT pg_advisory_lock(:space, :service)"),
        {"space": _LOCK_SPACE, "service": crc32(service.encode()) & 0x7FFFFFFF},
    )
    _become_migrator(connection)
    # Ends the transaction of the lock, which belongs to the session: what another runner did is visible from here on.
    connection.commit()
    # After the lock above: another runner may well take longer.
    connection.exec_driver_sql(f"SET lock_timeout = {int(lock_seconds * 1000)}")
    context = MigrationContext.configure(connection, opts={"fn": plan, "version_table": table})
    with context.begin_transaction():
        context.run_migrations(op=Operations(context))
        if context.get_current_heads():
            _install(connection, one_trips)
            _let_erase(connection, stated)
        else:
            _uninstall_all(connection)
    comment = UNTENANTED + "the revision of this database"
    connection.execute(text(f"COMMENT ON TABLE {quoted(table)} IS '{comment}'"))


def _install(connection: Connection, one_trips: Sequence[OneTrip]) -> None:
    """Makes the functions. Those of other releases stay, since their code may still be running."""
    roles = roles_of(checked(connection.engine.url.database or ""))
    for work in one_trips:
        for statement in work.statements((roles.app, roles.maintenance)):
            connection.exec_driver_sql(statement)


def _let_erase(connection: Connection, stated: Sequence[TableStatement]) -> None:
    role = roles_of(checked(connection.engine.url.database or "")).maintenance
    for statement in grants(stated, role):
        connection.exec_driver_sql(statement)


def _uninstall_all(connection: Connection) -> None:
    functions = connection.execute(
        text("SELECT oid::regprocedure::text FROM pg_proc WHERE obj_description(oid, 'pg_proc') = :mark"),
        {"mark": MARK},
    ).scalars()
    for function in functions.all():
        connection.exec_driver_sql(f"DROP FUNCTION {function}")  # the server itself quotes a regprocedure


def _become_migrator(connection: Connection) -> None:
    """Acts as the owner of the tables, so that an administrator's migrations leave the same owners."""
    migrator = roles_of(checked(connection.engine.url.database or "")).migrator
    if connection.execute(text("SELECT 1 FROM pg_roles WHERE rolname = :name"), {"name": migrator}).scalar():
        connection.execute(text(f"SET ROLE {quoted(migrator)}"))
