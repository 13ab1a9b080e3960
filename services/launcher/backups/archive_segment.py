"""Run by Postgres for each segment of its write-ahead log; on the standard library alone, since it runs every minute.

archive_segment.py put SEGMENT ARCHIVE DATA     keeps a segment, and before it what the services put into their stores
archive_segment.py get NAME SEGMENT ARCHIVE     gives one back, for a recovery

A transaction names an object that was put before it. Stores are copied before the segment, so the archive never has a
transaction without its objects. A segment has its name when all of it is on the disk, and never gets other content.
"""

import gzip
import os
import shutil
import sys
import zlib
from pathlib import Path

#: What services keep beside the database, below the data directory.
STORES = ("orchestrator/objects", "audit")
#: Names of tenants that are erased, whatever a database from before says.
ERASED = "audit/erased"
#: Endings of what is still being written there.
DRAFTS = (".draft", ".new")
_CHUNK = 1024 * 1024
#: Postgres takes this for the end of the archive.
_ABSENT = 1
#: Postgres gives up: what the archive has cannot be read.
_DAMAGED = 126


def put(segment: Path, archive: Path, data: Path) -> None:
    """Keeps a segment. Raises: OSError; Postgres keeps the segment and tries again."""
    for store in STORES:
        mirror(data / store, archive / "stores" / store)
    kept = segment_path(archive, segment.name)
    if kept.exists():
        with gzip.open(kept) as before:
            if before.read() != segment.read_bytes():
                raise OSError(f"{kept} holds another segment of this name; give this mesh an archive of its own")
        return
    draft = _draft_of(kept)
    with segment.open("rb") as source, draft.open("wb") as file:
        with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1, mtime=0) as packed:
            shutil.copyfileobj(source, packed, _CHUNK)
        _finish(file.fileno(), draft, kept)


def get(name: str, segment: Path, archive: Path) -> int:
    """Gives a segment back. Returns: the exit code that Postgres understands."""
    try:
        with gzip.open(segment_path(archive, name)) as kept, segment.open("wb") as file:
            shutil.copyfileobj(kept, file, _CHUNK)
    except FileNotFoundError:
        return _ABSENT
    except (OSError, EOFError, zlib.error) as error:
        print(f"the archived segment {name} cannot be read: {error}", file=sys.stderr)
        return _DAMAGED
    return 0


def segment_path(archive: Path, name: str) -> Path:
    """Says where a segment lies."""
    return archive / "wal" / f"{name}.gz"


def mirror(store: Path, kept: Path) -> None:
    """Copies what is new or has grown; what was deleted stays, for it may be asked for at an earlier time."""
    for folder, _, files in os.walk(store):
        there = kept / Path(folder).relative_to(store)
        there.mkdir(parents=True, exist_ok=True)
        for name in files:
            source, target = Path(folder, name), there / name
            try:
                if name.endswith(DRAFTS) or _size(target) == source.stat().st_size:
                    continue
                draft = _draft_of(target)
                shutil.copyfile(source, draft)
            except FileNotFoundError:
                continue  # deleted meanwhile
            descriptor = os.open(draft, os.O_RDONLY)
            try:
                _finish(descriptor, draft, target)
            finally:
                os.close(descriptor)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


def _draft_of(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.new")


def _finish(descriptor: int, draft: Path, final: Path) -> None:
    """Puts a draft in its place, on the disk."""
    os.fsync(descriptor)
    draft.replace(final)
    folder = os.open(final.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def main(arguments: list[str]) -> int:
    """Runs from the command line. Returns the exit code."""
    os.umask(0o077)
    if arguments[:1] == ["get"]:
        return get(arguments[1], Path(arguments[2]), Path(arguments[3]))
    try:
        put(*map(Path, arguments[1:]))
    except OSError as error:
        print(f"the segment {arguments[1]} is not archived: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
