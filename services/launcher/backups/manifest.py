"""What lies in a backup, and whether it is whole.

manifest.json          written last: a folder without it is no backup
postgres/base.tar.gz   the cluster with all seven databases     postgres/pg_wal.tar.gz   what it takes to be consistent
stores.tar             objects of runs, audit heads and archive
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from services.launcher.errors import LauncherError
from services.launcher.layout import write_private

NAME: Final = "manifest.json"
BASE: Final = "postgres/base.tar.gz"
WAL: Final = "postgres/pg_wal.tar.gz"
STORES: Final = "stores.tar"
#: How backups are laid out; another number is another release's.
FORMAT: Final = 2
_OWN_HASH: Final = "sha256"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file of a backup."""

    #: Path below the backup.
    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a backup says of itself."""

    #: Release that took it.
    version: str
    #: Major version of Postgres.
    postgres: int
    #: What the names of its databases begin with.
    prefix: str
    #: Which archive of the log is its own.
    archive_owner: str
    #: By the database's clock: what was committed before the start is in it, and nothing of after the end.
    start_time: datetime
    end_time: datetime
    #: Last migration by service.
    migrations: dict[str, str]
    #: Where the write-ahead log must be read from and to, `0/2000028`.
    wal_start: str
    wal_end: str
    #: First segment that a recovery from here asks an archive for; older ones serve older backups only.
    wal_first_segment: str
    #: Ids of the keys that wrapped the data keys.
    keks: tuple[str, ...]
    #: What it takes on the disk when it is restored.
    unpacked_bytes: int
    parts: tuple[Part, ...]

    @property
    def bytes(self) -> int:
        """Size of all parts."""
        return sum(part.bytes for part in self.parts)


def measure(backup: Path, name: str) -> Part:
    """Hashes a part."""
    with (backup / name).open("rb") as file:
        return Part(
            name=name, bytes=(backup / name).stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest()
        )


def write_manifest(backup: Path, manifest: Manifest) -> None:
    """Writes it with a hash over itself. What is called a manifest then is whole, and on the disk."""
    times = {"start_time": manifest.start_time.isoformat(), "end_time": manifest.end_time.isoformat()}
    said: dict[str, Any] = {"format": FORMAT, **asdict(manifest), **times}
    write_private(backup / NAME, json.dumps({**said, _OWN_HASH: _hash_of(said)}, indent=1).encode())


def read_manifest(backup: Path) -> Manifest:
    """Raises: LauncherError: this is no backup, it is another release's, or the manifest was changed."""
    try:
        said: dict[str, Any] = json.loads((backup / NAME).read_bytes())
        own = said.pop(_OWN_HASH)
        if said.pop("format") != FORMAT:
            raise LauncherError(f"the backup {backup} is of a format that this release does not know")
        if own != _hash_of({"format": FORMAT, **said}):
            raise LauncherError(f"the backup {backup} is damaged: its manifest is not what was written")
        said["start_time"], said["end_time"] = map(datetime.fromisoformat, (said["start_time"], said["end_time"]))
        said["parts"], said["keks"] = tuple(Part(**part) for part in said["parts"]), tuple(said["keks"])
        return Manifest(**said)
    except FileNotFoundError as cause:
        raise LauncherError(f"{backup} is no backup: it has no {NAME}, which is written last") from cause
    except OSError as cause:
        raise LauncherError(f"the backup {backup} cannot be read ({cause.strerror})") from cause
    except (ValueError, KeyError, TypeError, AttributeError) as cause:
        raise LauncherError(f"the backup {backup} is damaged: its manifest cannot be read") from cause


def check_parts(backup: Path, manifest: Manifest, told: Callable[[str], None]) -> None:
    """Compares every byte. Raises: LauncherError: a part is missing, cut or changed."""
    for part in manifest.parts:
        told(part.name)
        try:
            found = measure(backup, part.name)
        except OSError as cause:
            raise LauncherError(f"the backup {backup} is damaged: {part.name} is missing or cannot be read") from cause
        if found.bytes != part.bytes:
            raise LauncherError(f"the backup {backup} is damaged: {part.name} has {found.bytes} of {part.bytes} bytes")
        if found != part:
            raise LauncherError(f"the backup {backup} is damaged: {part.name} is not what was written")


def _hash_of(said: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
