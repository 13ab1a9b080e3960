"""Looks through everything that a mesh has on record: after a restore, and whenever somebody asks.

Each service looks through its own, as `python -m services.<name>.check`, with the settings it runs with.
"""

import asyncio
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.launcher import databases
from services.launcher.admin import admin_url
from services.launcher.bring_up import CHECKOUT
from services.launcher.child import describe_exit, run_short
from services.launcher.environment import MeshFacts, service_environment
from services.launcher.errors import LauncherError
from services.launcher.kek import count_data_keys
from services.launcher.keys import find_databases
from services.launcher.layout import DataDir, find_data_dir, holder
from services.launcher.mesh_databases import MeshDatabases
from services.launcher.options import Report, reported
from services.meshkit.core.checked import Checked
from services.meshkit.sql.wal_archive import read_archive

#: Services that look through their own record, and what that is called.
CHECKING: Final[Mapping[str, str]] = {"gateway": "audit trail", "cost": "money", "orchestrator": "journals"}
#: Runs that are replayed unless somebody says otherwise.
MOST_RUNS: Final = 200
_CONNECT_SECONDS: Final = 5.0
_CHECK_SECONDS: Final = 24 * 3600.0
#: What `kek_status` calls whatever no file wraps.
_A_KEY_SERVICE: Final = "a key service"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedMesh:
    """What came of all looks."""

    found: tuple[Checked, ...]

    @property
    def faults(self) -> tuple[str, ...]:
        """All sentences about what is wrong."""
        return tuple(fault for one in self.found for fault in one.faults)


def check_mesh(
    data: DataDir, environment: Mapping[str, str], report: Report, *, runs: int = MOST_RUNS, administrator: str = ""
) -> CheckedMesh:
    """Looks through the record of a mesh whose Postgres runs; whether its services do makes no difference.

    Args:
        environment: with which the mesh is started.
        runs: how many runs are replayed.
        administrator: address of Postgres, where it is not the usual one of this mesh.
    Raises: LauncherError: there was no mesh yet, or Postgres does not answer.
    """
    ours = find_databases(data, administrator or admin_url(data, environment), environment)
    with reported("databases", report):
        found = [*asyncio.run(_databases(ours)), asyncio.run(_keys(data, ours))]
    facts = MeshFacts(
        data=data,
        ports=defaultdict[str, int](int),
        user=environment,
        databases=ours,
        nats_url="nats://127.0.0.1:0",
    )
    for service, what in CHECKING.items():
        with reported(what, report):
            found += _looked_through(service, service_environment(service, facts), runs)
    return CheckedMesh(found=tuple(found))


def check_running(data_dir: Path | None, environment: Mapping[str, str], report: Report, *, runs: int) -> CheckedMesh:
    """Looks through the record of the mesh that runs on a data directory. Raises: LauncherError: none does."""
    data = find_data_dir(data_dir, environment)
    if holder(data) is None:
        raise LauncherError("no mesh is running; start it with `comitia up --detach`, for its databases are asked")
    return check_mesh(data, environment, report, runs=runs)


def _looked_through(service: str, environment: Mapping[str, str], runs: int) -> Sequence[Checked]:
    """Has a service look. Whatever keeps it from looking to the end is a fault like others."""
    command = [sys.executable, "-m", f"services.{service}.check"]
    if service == "orchestrator":
        command.append(str(runs))
    try:
        done = run_short(command, environment, directory=CHECKOUT, seconds=_CHECK_SECONDS)
    except subprocess.TimeoutExpired:
        return [_unseen(service, f"it takes longer than {_CHECK_SECONDS / 3600:.0f} hours")]
    except OSError as error:
        return [_unseen(service, str(error))]
    lines = done.stdout.decode(errors="replace").splitlines()
    found = [Checked(what=said["checked"], faults=tuple(said["faults"])) for line in lines if (said := _read(line))]
    if found and (done.returncode == 0 or any(one.faults for one in found)):
        return found
    said_last = lines[-1] if lines and not found else describe_exit(done.returncode)
    return [*found, _unseen(service, said_last)]


def _unseen(service: str, why: str) -> Checked:
    return Checked(what=f"{service} cannot be looked through", faults=(why,))


def _read(line: str) -> dict[str, Any]:
    try:
        return json.loads(line) if line.startswith('{"checked"') else {}
    except json.JSONDecodeError:
        return {}  # the service ended while it said so


async def _databases(ours: MeshDatabases) -> Sequence[Checked]:
    return [await _migrations(ours), *await _archive(ours.admin_url)]


async def _archive(address: str) -> Sequence[Checked]:
    """Says whether the log reaches its archive, where there is one."""
    async with connected(address) as connection:
        state = await read_archive(connection)
    if not state.kept:
        return ()
    fault = f"the log is not archived since segment {state.failed}; `comitia logs postgres` says why"
    return (Checked(what=f"{state.segments} segments of the log archived", faults=(fault,) if state.failing else ()),)


async def _migrations(ours: MeshDatabases) -> Checked:
    """Says whether every database is as this release needs it."""
    expected = databases.heads()
    found = await migrations_of(ours)
    faults = [
        f"the database of {service} is at migration {found[service] or 'none'}, and this release needs {number}"
        for service, number in expected.items()
        if found[service] != number
    ]
    return Checked(what=f"{len(expected)} databases at their last migration", faults=faults)


async def migrations_of(ours: MeshDatabases) -> dict[str, str]:
    """Gives the last migration of each database. Raises: LauncherError: Postgres does not answer, or lacks one."""
    found: dict[str, str] = {}
    for service in databases.heads():
        async with connected(ours.admin_url_of(service)) as connection:
            found[service] = await connection.fetchval(f"SELECT version_num FROM schema_version_{service}")  # noqa: S608
    return found


@asynccontextmanager
async def connected(address: str) -> AsyncGenerator[Any]:
    """Opens a database while the block runs. Raises: LauncherError: it does not answer, or refuses what is asked."""
    import asyncpg

    try:
        connection: Any = await asyncpg.connect(address, timeout=_CONNECT_SECONDS)
        try:
            yield connection
        finally:
            await connection.close()
    except (OSError, TimeoutError, asyncpg.PostgresError) as cause:
        name = address.rpartition("/")[2]
        raise LauncherError(f"the database {name} does not answer ({cause or type(cause).__name__})") from cause


async def _keys(data: DataDir, ours: MeshDatabases) -> Checked:
    """Says whether there is a key for everything that is sealed."""
    from services.meshkit.crypto.errors import KekFileUnsafe
    from services.meshkit.crypto.kek_file import kek_ids

    try:
        known = {*kek_ids(data.kek), _A_KEY_SERVICE}
    except KekFileUnsafe as cause:
        raise LauncherError(cause.message) from cause
    counted = await count_data_keys(ours)
    faults = [
        f"{count} data keys of {service} are wrapped by the key {kek}, which {Path('keys', 'kek')} does not have"
        for service, counts in counted.items()
        for kek, count in counts.items()
        if kek not in known
    ]
    total = sum(sum(counts.values()) for counts in counted.values())
    return Checked(what=f"{total} data keys, each with the key that opens it", faults=faults)
