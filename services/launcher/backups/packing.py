"""Folders into tar files and back, readable by their owner only."""

import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from uuid import uuid4

from services.launcher.backups.archive_segment import DRAFTS
from services.launcher.errors import LauncherError

_PRIVATE_DIR: Final = 0o700
_PRIVATE_FILE: Final = 0o600


class Packer:
    """Adds files to one tar, each once, while others go on adding and deleting."""

    def __init__(self, tar: Path, root: Path) -> None:
        self._root = root
        self._seen: set[str] = set()
        self._file = os.fdopen(os.open(tar, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE_FILE), "wb")
        self._tar = tarfile.TarFile(fileobj=self._file, mode="w")
        #: Of the files in it.
        self.bytes = 0

    def add(self, *names: str) -> int:
        """Adds what is new below these names, files or folders; returns how many files that were."""
        before = len(self._seen)
        for path in (found for name in names for found in _files(self._root / name)):
            name = path.relative_to(self._root).as_posix()
            if name in self._seen or name.endswith(DRAFTS):
                continue
            try:
                with path.open("rb") as opened:
                    told = self._tar.gettarinfo(fileobj=opened, arcname=name)
                    self._tar.addfile(told, opened)
            except FileNotFoundError:
                continue  # deleted meanwhile
            self._seen.add(name)
            self.bytes += told.size
        return len(self._seen) - before

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._tar.close()
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()


def unpack(tar: Path, folder: Path) -> None:
    """Unpacks a tar into a folder. Raises: LauncherError: it is none, or names a place outside."""
    folder.mkdir(mode=_PRIVATE_DIR, parents=True, exist_ok=True)
    try:
        with tarfile.open(tar) as opened:
            opened.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError) as cause:
        raise LauncherError(f"{tar} cannot be unpacked: {cause}") from cause
    for place, _, _ in os.walk(folder):
        Path(place).chmod(_PRIVATE_DIR)


def folder_bytes(folder: Path) -> int:
    """Sums up the files of a folder, some of which may go meanwhile."""
    total = 0
    for path in _files(folder):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def require_space(folder: Path, needed: int) -> None:
    """Raises: LauncherError: the disk has too little room."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise LauncherError(f"{folder} has {_megabytes(free)} free, and up to {_megabytes(needed)} are needed")


@contextmanager
def draft_folder(final: Path) -> Iterator[Path]:
    """Gives a folder beside the final place, which becomes it at the end of the block, and is removed by any failure.

    Raises: LauncherError: the place is taken or cannot be written, or the block met a file or a disk that fails.
    """
    draft = final.with_name(f".{final.name}.{uuid4().hex[:8]}.part")
    try:
        with _written(final):
            draft.mkdir(mode=_PRIVATE_DIR)
        try:
            yield draft
        except OSError as cause:
            at = f"{cause.filename}: " if cause.filename else ""
            raise LauncherError(f"{final} is not made ({at}{cause.strerror or cause})") from cause
        with _written(final):
            _sync(draft)
            # Puts it over an empty folder too, and over nothing else.
            draft.rename(final)
            _sync_one(final.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _written(final: Path) -> Iterator[None]:
    try:
        yield
    except OSError as cause:
        raise LauncherError(f"{final} cannot be written ({cause.strerror or cause})") from cause


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for folder, _, names in os.walk(path):
        yield from (found for name in names if (found := Path(folder, name)).is_file() and not found.is_symlink())


def _sync(folder: Path) -> None:
    for place, _, names in os.walk(folder):
        for name in names:
            _sync_one(Path(place, name))
        _sync_one(Path(place))


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
