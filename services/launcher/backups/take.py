"""Takes a backup of a mesh that runs on this machine.

All seven databases lie in one cluster, so the copy shows them at one moment. Objects are copied twice, before it and
after it: what the copy names was put before, and is deleted a day after nothing names it. Signed heads are copied
before it, so that none is over entries that the copy lacks.
"""

import asyncio
import json
import os
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from services.launcher import databases
from services.launcher.admin import embedded_room, remembered_prefix
from services.launcher.backups import manifest as manifests
from services.launcher.backups.archive_segment import ERASED, STORES
from services.launcher.backups.checks import connected, migrations_of
from services.launcher.backups.manifest import Manifest
from services.launcher.backups.packing import Packer, draft_folder, folder_bytes, require_space
from services.launcher.backups.wal import archive_owner, segment_of
from services.launcher.child import run_short
from services.launcher.embedded.postgres import ADMIN, PostgresRoom, find_programs
from services.launcher.environment import ordinary_environment
from services.launcher.errors import LauncherError
from services.launcher.keys import find_databases
from services.launcher.layout import DataDir, find_data_dir, holder
from services.launcher.options import Report, reported
from services.launcher.record import read_record

#: The archive of the audit trail grows beside its heads, and is named by the database.
#: And whoever is erased meanwhile is not to come back.
_NAMED_BY_THE_DATABASE: Final = ("orchestrator/objects", "audit/archive", ERASED)
#: All keys and passwords of a mesh, below its data directory.
KEYS: Final = ("keys", "secrets.json", "admin.key")
#: A copy may take long, and is not to hang for ever.
_COPY_SECONDS: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moment:
    """The database as it is now."""

    now: datetime
    migrations: dict[str, str]


def back_up(target: Path, *, data_dir: Path | None, keys: Path | None, report: Report) -> Manifest:
    """Writes a backup as a folder that is there when all of it is, and not before.

    Args:
        target: the folder; nothing must be there yet.
        keys: file that receives all keys and passwords; nothing must be there yet.
    Raises: LauncherError: no mesh of this release runs, its Postgres is not the embedded one, a place is taken or has
        no room, or the copy failed. Nothing is left then.
    """
    data = find_data_dir(data_dir, os.environ)
    target = target.expanduser().absolute()
    keys = None if keys is None else keys.expanduser().absolute()
    room = _running_room(data)
    for place in filter(None, (target, keys)):
        _refuse_place(place, data)
    if keys is not None and keys.resolve() == target.resolve():
        raise LauncherError(f"the keys cannot lie at {keys}, where the backup is to lie; keep them in another place")
    require_space(target.parent, folder_bytes(room.directory) + sum(folder_bytes(data.of(store)) for store in STORES))
    before = asyncio.run(_moment(data, room))
    if before.migrations != databases.heads():
        raise LauncherError("the databases are not those of this release; end its upgrade first (docs/changing.md)")
    with ExitStack() as undo:
        with draft_folder(target) as draft:
            found = _write(draft, data, room, before, report)
            if keys is not None:
                write_keys(keys, data)
                undo.callback(keys.unlink, missing_ok=True)
        undo.pop_all()
    return found


def write_keys(file: Path, data: DataDir) -> None:
    """Writes all keys and passwords of a mesh into one file."""
    part = file.with_name(f".{file.name}.part")
    try:
        part.unlink(missing_ok=True)
        with Packer(part, data.root) as packer:
            packer.add(*KEYS)
        part.rename(file)
    except OSError as cause:
        raise LauncherError(f"{file} cannot be written ({cause.strerror or cause})") from cause
    finally:
        part.unlink(missing_ok=True)


def _running_room(data: DataDir) -> PostgresRoom:
    record = read_record(data)
    if holder(data) is None or record is None:
        raise LauncherError(f"no mesh is running on {data.root}; start it with `comitia up --detach`")
    if record.version != version("comitia"):
        said = record.version or "an older release"
        raise LauncherError(f"the mesh runs {said}, and this command is of {version('comitia')}; use the same release")
    if not data.of("postgres").exists():
        raise LauncherError(
            "Postgres is one of yours (COMITIA_POSTGRES_URL): back it up as it does by itself, see docs/backup.md"
        )
    return embedded_room(data)


def _refuse_place(place: Path, data: DataDir) -> None:
    if place.exists():
        raise LauncherError(f"{place} exists already; a backup never writes over anything")
    if not place.parent.is_dir():
        raise LauncherError(f"there is no folder {place.parent}")
    if place.is_relative_to(data.root):
        raise LauncherError(f"{place} lies in the data directory, and would be lost with it")


def _write(draft: Path, data: DataDir, room: PostgresRoom, before: _Moment, report: Report) -> Manifest:
    from services.meshkit.crypto.kek_file import kek_ids

    with Packer(draft / manifests.STORES, data.root) as packer:
        with reported("stores", report):
            packer.add(*STORES)
        with reported("postgres", report):
            _copy_cluster(draft / "postgres", room)
        after = asyncio.run(_moment(data, room))
        with reported("stores again", report):
            packer.add(*_NAMED_BY_THE_DATABASE)
    wal = _wal_range(draft)
    with reported("hashes", report):
        parts = tuple(manifests.measure(draft, name) for name in (manifests.BASE, manifests.WAL, manifests.STORES))
    found = Manifest(
        version=version("comitia"),
        postgres=int((room.directory / "PG_VERSION").read_text()),
        prefix=remembered_prefix(data, os.environ),
        archive_owner=archive_owner(data),
        start_time=before.now,
        end_time=after.now,
        migrations=after.migrations,
        wal_start=wal["Start-LSN"],
        wal_end=wal["End-LSN"],
        wal_first_segment=segment_of(wal["Timeline"], wal["Start-LSN"]),
        keks=tuple(kek_ids(data.kek)),
        unpacked_bytes=folder_bytes(room.directory) + packer.bytes,
        parts=parts,
    )
    manifests.write_manifest(draft, found)
    return found


def _copy_cluster(folder: Path, room: PostgresRoom) -> None:
    command = (
        *(str(find_programs(room.directory) / "pg_basebackup"), "-D", str(folder)),
        *("--format=tar", "--wal-method=stream", "--compress=client-gzip:1", "--checkpoint=fast"),
        *("--host=127.0.0.1", f"--port={room.port}", f"--username={ADMIN}", "--no-password"),
    )
    environment = {**ordinary_environment(os.environ), "PGPASSWORD": room.password}
    done = run_short(command, environment, seconds=_COPY_SECONDS)
    if done.returncode != 0:
        said = done.stdout.decode(errors="replace").strip().splitlines()
        raise LauncherError(f"Postgres could not be copied: {said[-1] if said else f'exit code {done.returncode}'}")
    for path in folder.iterdir():
        path.chmod(0o600)


def _wal_range(draft: Path) -> dict[str, Any]:
    """Reads what Postgres says of its copy, which hashes over the parts make superfluous afterwards."""
    said = draft / "postgres" / "backup_manifest"
    found: dict[str, Any] = json.loads(said.read_bytes())["WAL-Ranges"][-1]
    said.unlink()
    return found


async def _moment(data: DataDir, room: PostgresRoom) -> _Moment:
    migrations = await migrations_of(find_databases(data, room.admin_url, os.environ))
    async with connected(room.admin_url) as connection:
        return _Moment(now=await connection.fetchval("SELECT clock_timestamp()"), migrations=migrations)
