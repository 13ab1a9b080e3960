"""The archive of the write-ahead log: what `comitia up --archive-wal` keeps, and a recovery to a moment reads.

<archive>/owner                    which mesh writes here
<archive>/wal/<segment>.gz         segments
<archive>/stores/…                 objects and archived audit entries, copied before the segment that names them
"""

import os
import re
import secrets
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Final

from services.launcher.embedded.postgres import PostgresRoom, find_programs, identity_of, is_account
from services.launcher.errors import LauncherError
from services.launcher.layout import DataDir, read_state, write_private, write_state

_PROGRAM: Final = Path(__file__).with_name("archive_segment.py")
#: A segment that is not full is archived after so long: what a lost machine costs at most.
_TIMEOUT: Final = "60s"
_SEGMENT: Final = re.compile(r"([0-9A-F]{24})\.gz", re.ASCII)
_SEGMENT_BYTES: Final = 16 * 1024 * 1024
_SEGMENTS_OF_4_GB: Final = 256
_OWNER: Final = "owner"
_OWNER_STATE: Final = "archive_owner"


def archiving(data: DataDir, archive: Path) -> dict[str, str]:
    """Makes the archive, and gives the settings by which Postgres writes to it.

    Raises: LauncherError: it cannot be written, lies in the data directory, or is another mesh's.
    """
    archive = archive.expanduser().absolute()
    if archive.is_relative_to(data.root):
        raise LauncherError(f"the archive {archive} lies in the data directory, and would be lost with it")
    try:
        for folder in (archive, archive / "wal"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _claim(data, archive)
    except OSError as cause:
        raise LauncherError(f"the archive {archive} cannot be written ({cause.strerror})") from cause
    return {
        "archive_mode": "on",
        "archive_timeout": _TIMEOUT,
        "archive_command": f"{_command('put')} %p {_quoted(archive)} {_quoted(data.root)}",
    }


def recovering(archive: Path | None, until: datetime | None) -> dict[str, str]:
    """Gives the settings of a recovery: to the end of what there is, or to a moment."""
    restore = f"{_command('get')} %f %p {_quoted(archive.absolute())}" if archive else "exit 1"
    settings = {
        "restore_command": restore,
        # What follows is a history of its own, even if the mesh of the backup goes on elsewhere.
        "recovery_target_timeline": "current",
        "recovery_target_action": "promote",
        # Nobody is to read before all is there.
        "hot_standby": "off",
        "archive_mode": "off",
    }
    return settings if until is None else {**settings, "recovery_target_time": until.isoformat()}


def refuse_other_account(room: PostgresRoom) -> None:
    """Raises: LauncherError: Postgres is run as somebody who may read neither the archive nor what services keep."""
    if is_account(identity_of(find_programs(room.directory))):
        raise LauncherError(
            "root runs Postgres as another account here, which reads neither the archive nor what services keep; "
            "an archive needs a mesh of an ordinary user"
        )


def refuse_other_archive(archive: Path, owner: str) -> None:
    """Raises: LauncherError: the folder is no archive, or that of another mesh."""
    if not (archive / "wal").is_dir():
        raise LauncherError(f"{archive} is no archive of `comitia up --archive-wal`; it has no folder wal")
    path = archive / _OWNER
    if not path.is_file() or path.read_bytes() != owner.encode():
        raise LauncherError(f"the archive {archive} is not that of the mesh which the backup is of")


def segments_of(archive: Path, timeline: int) -> Sequence[str]:
    """Lists the segments of one history that an archive has, oldest first."""
    found = (_SEGMENT.fullmatch(path.name) for path in (archive / "wal").iterdir())
    return sorted(name[1] for name in found if name and name[1].startswith(f"{timeline:08X}"))


def unrestored(archived: Sequence[str], timeline: int, replayed: str) -> str:
    """Says what an archive has after the end of a recovery to its end; empty when there is nothing.

    To Postgres the first segment that is missing is the end of the log. A record that was being written when the last
    segment was archived begins in one and ends in the next, so one alone may be left over.

    Args:
        archived: what the archive had before the recovery, for a mesh may go on adding to it.
        replayed: position after the last record that was replayed.
    """
    number, offset = _number_of(replayed)
    following = number + bool(offset)
    left = [name for name in archived if name >= _segment(timeline, following)]
    missing = next(name for at in count(following) if (name := _segment(timeline, at)) not in left)
    later = [name for name in left if name > missing]
    if later:
        return f"the archive lacks segment {missing}; later ones that were not restored: {len(later)}"
    if len(left) > 1:
        return f"the log breaks off before segment {left[0]}; segments that were not restored: {len(left)}"
    return ""


def segment_of(timeline: int, position: str) -> str:
    """Names the segment of 16 MB of the write-ahead log that a position lies in."""
    return _segment(timeline, _number_of(position)[0])


def _segment(timeline: int, number: int) -> str:
    high, low = divmod(number, _SEGMENTS_OF_4_GB)
    return f"{timeline:08X}{high:08X}{low:08X}"


def _number_of(position: str) -> tuple[int, int]:
    """Gives which segment since the beginning a position lies in, and where in it."""
    high, low = (int(part, 16) for part in position.split("/"))
    return divmod((high << 32) + low, _SEGMENT_BYTES)


def archive_owner(data: DataDir) -> str:
    """Gives the name by which a mesh knows its archive, making it at the first question.

    Concurrency: for the holder of the data directory, until it is made.
    """
    state = read_state(data)
    if _OWNER_STATE not in state:
        state[_OWNER_STATE] = secrets.token_hex(8)
        write_state(data, state)
    return state[_OWNER_STATE]


def _claim(data: DataDir, archive: Path) -> None:
    path, ours = archive / _OWNER, archive_owner(data).encode()
    if not path.exists():
        write_private(path, ours)
    elif path.read_bytes() != ours:
        raise LauncherError(f"the archive {archive} is that of another mesh; give this one a folder of its own")


def _command(verb: str) -> str:
    return f"{_quoted(Path(sys.executable))} -I -S {_quoted(_PROGRAM)} {verb}"


def _quoted(path: Path) -> str:
    """Writes a path for the shell, and for Postgres, to which a percent sign means something."""
    return shlex.quote(os.fspath(path)).replace("%", "%%")
