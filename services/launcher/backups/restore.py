"""Makes a data directory of a backup, of the moment of the backup or a later one, and looks through what it got."""

import asyncio
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from services.launcher import databases
from services.launcher.admin import remember_prefix
from services.launcher.backups import manifest as manifests
from services.launcher.backups.archive_segment import DRAFTS, ERASED
from services.launcher.backups.checks import MOST_RUNS, CheckedMesh, check_mesh
from services.launcher.backups.manifest import Manifest
from services.launcher.backups.packing import draft_folder, require_space, unpack
from services.launcher.backups.recovery import reached, recovered, unpack_cluster
from services.launcher.backups.take import KEYS
from services.launcher.backups.wal import refuse_other_archive, segments_of, unrestored
from services.launcher.errors import LauncherError
from services.launcher.layout import DataDir, find_data_dir, prepare
from services.launcher.mesh_databases import PREFIX_VARIABLE, prefix_from
from services.launcher.options import Progress, Report, StepState, reported
from services.meshkit.core.checked import Checked

#: Of the stores in an archive: heads are taken from the backup, which has none over entries that are not restored.
_FROM_THE_ARCHIVE: Final = ("orchestrator/objects", "audit/archive", ERASED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to be restored, and where."""

    backup: Path
    #: Nothing, or an empty folder, is there.
    data_dir: Path | None
    #: What `comitia backup --keys` wrote, or a folder with the same in it, such as a data directory.
    keys: Path | None
    #: What `comitia up --archive-wal` wrote.
    archive: Path | None = None
    #: None: to the end of what there is.
    until: datetime | None = None
    #: Keep what was restored even if a look finds a fault.
    keep_unsound: bool = False
    #: Runs that are replayed afterwards.
    runs: int = MOST_RUNS


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A mesh that can be started."""

    data: DataDir
    manifest: Manifest
    #: The last transaction that it has.
    last_commit: datetime
    checked: CheckedMesh


def restore(wish: Wish, report: Report) -> Restored:
    """Restores into a folder that is there when all of it is, and was looked through, and not before.

    Raises: LauncherError: the backup is damaged or another release's, the place is not empty, the keys are missing or
        others, the log does not reach the moment, or what was restored is not sound. Nothing is left then.
    """
    data = find_data_dir(wish.data_dir, os.environ)
    backup = wish.backup.expanduser().absolute()
    manifest = manifests.read_manifest(backup)
    _refuse(wish, manifest, data)
    require_space(data.root.parent, manifest.unpacked_bytes)
    with reported("hashes", report):
        manifests.check_parts(backup, manifest, lambda _part: None)
    with draft_folder(data.root) as draft:
        made = DataDir(draft)
        with reported("unpack", report):
            _unpack(wish, backup, made, manifest.prefix)
        last_commit, checked = asyncio.run(_recover(wish, manifest, made, report))
        if checked.faults and not wish.keep_unsound:
            raise LauncherError(
                f"what was restored is not sound, and was not kept (see --keep-unsound): {'; '.join(checked.faults)}"
            )
    return Restored(data=data, manifest=manifest, last_commit=last_commit, checked=checked)


def _refuse(wish: Wish, manifest: Manifest, data: DataDir) -> None:
    """Finds what can be found without touching anything. Raises: LauncherError."""
    if manifest.version != version("comitia") or manifest.migrations != databases.heads():
        raise LauncherError(
            f"the backup was taken by {manifest.version} with other migrations than {version('comitia')} here has; "
            "restore it with that release, and upgrade it then (docs/changing.md)"
        )
    if data.root.exists() and any(data.root.iterdir()):
        raise LauncherError(f"{data.root} is not empty; name another folder with --data-dir")
    if not data.root.parent.is_dir():
        raise LauncherError(f"there is no folder {data.root.parent}")
    if wish.keys is None:
        raise LauncherError(
            "a backup holds no keys; name the file that `comitia backup --keys` wrote, or a folder with "
            f"{', '.join(KEYS)}, by --keys"
        )
    prefix = prefix_from(os.environ)
    if prefix != manifest.prefix:
        raise LauncherError(
            f"the databases of this backup begin with {manifest.prefix!r}, and {PREFIX_VARIABLE} says {prefix!r}; "
            "set it as for the mesh that the backup is of"
        )
    if wish.archive is not None:
        refuse_other_archive(wish.archive, manifest.archive_owner)
    if wish.until is not None:
        _refuse_moment(wish.until, manifest, archived=wish.archive is not None)


def _refuse_moment(until: datetime, manifest: Manifest, *, archived: bool) -> None:
    if not archived:
        raise LauncherError("a moment after the backup needs the log: name its archive with --archive")
    if until < manifest.end_time:
        raise LauncherError(
            f"the backup ended at {_shown(manifest.end_time)}, and holds nothing of {_shown(until)}; take an older one"
        )


def _unpack(wish: Wish, backup: Path, made: DataDir, prefix: str) -> None:
    assert wish.keys is not None
    _unpack_keys(wish.keys.expanduser().absolute(), made)
    unpack(backup / manifests.STORES, made.root)
    if wish.archive is not None:
        for store in _FROM_THE_ARCHIVE:
            there = wish.archive / "stores" / store
            if there.is_dir():
                shutil.copytree(
                    there,
                    made.root / store,
                    dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns(*map("*{}".format, DRAFTS)),
                )
    unpack_cluster(backup, made)
    prepare(made)
    remember_prefix(made, prefix)


def _unpack_keys(keys: Path, made: DataDir) -> None:
    """Takes keys and passwords from a file or a folder, which also names who was erased since.

    Raises: LauncherError: not all are there.
    """
    if keys.is_dir():
        for name in KEYS:
            source = keys / name
            if source.is_dir():
                shutil.copytree(source, made.root / name)
            elif source.exists():
                shutil.copy2(source, made.root / name)
        if (keys / ERASED).is_dir():
            shutil.copytree(keys / ERASED, made.root / ERASED)
    elif keys.exists():
        unpack(keys, made.root)
    missing = [name for name in KEYS if not (made.root / name).exists()]
    if missing or not made.kek.exists():
        raise LauncherError(f"{keys} does not hold the keys of a mesh; it lacks {', '.join(missing) or 'keys/kek'}")


async def _recover(wish: Wish, manifest: Manifest, made: DataDir, report: Report) -> tuple[datetime, CheckedMesh]:
    began = asyncio.get_running_loop().time()
    report(Progress(step="recovery", state=StepState.STARTED))
    environment: Mapping[str, str] = os.environ
    timeline = int(manifest.wal_first_segment[:8], 16)
    archived = segments_of(wish.archive, timeline) if wish.archive else ()
    async with recovered(made, archive=wish.archive, until=wish.until, environment=environment, report=report) as room:
        came = await reached(room)
        # What was committed before the copy began is in it for certain.
        last = came.time or manifest.start_time
        seconds = asyncio.get_running_loop().time() - began
        report(Progress(step="recovery", state=StepState.DONE, seconds=seconds, detail=_shown(last)))
        checked = await asyncio.to_thread(
            check_mesh, made, environment, report, runs=wish.runs, administrator=room.admin_url
        )
    if wish.archive is not None and wish.until is None:
        fault = unrestored(archived, timeline, came.position)
        log = Checked(what="the log up to the end of its archive", faults=(fault,) if fault else ())
        checked = CheckedMesh(found=(log, *checked.found))
    return last, checked


def _shown(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
