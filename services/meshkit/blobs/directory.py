"""Objects in a directory, one file each. Several processes share it; give it to its service alone."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final

from services.meshkit.blobs.store import BlobMissing, BlobStoreAway, StoredBlob

_PRIVATE_DIRECTORY: Final = 0o700
_PRIVATE_FILE: Final = 0o600
#: Ending of a file that is being written; one that a crash left behind is listed, so that a sweep finds it.
_DRAFT: Final = ".draft"
_LISTED_AT_ONCE: Final = 1_000


class BlobDirectory:
    """Implements `BlobStore`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def put(self, name: str, content: bytes) -> None:
        """See `BlobStore.put`."""
        await asyncio.to_thread(self._put, name, content)

    async def get(self, name: str) -> bytes:
        """See `BlobStore.get`."""
        return await asyncio.to_thread(self._get, name)

    async def all(self, prefix: str) -> AsyncIterator[Sequence[StoredBlob]]:
        """See `BlobStore.all`."""
        found = self._below(prefix)
        while some := await asyncio.to_thread(lambda: list(islice(found, _LISTED_AT_ONCE))):
            yield some

    async def delete(self, names: Iterable[str]) -> None:
        """See `BlobStore.delete`."""
        await asyncio.to_thread(self._delete, list(names))

    def _put(self, name: str, content: bytes) -> None:
        path = self._root / name
        draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}{_DRAFT}")
        try:
            with os.fdopen(_open_new(draft), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
            _sync_directory(path.parent)
        except OSError as error:
            raise BlobStoreAway(error.strerror) from error

    def _get(self, name: str) -> bytes:
        try:
            return (self._root / name).read_bytes()
        except FileNotFoundError as error:
            raise BlobMissing(name) from error
        except OSError as error:
            raise BlobStoreAway(error.strerror) from error

    def _below(self, prefix: str) -> Iterator[StoredBlob]:
        try:
            for folder, _, files in os.walk(self._root / prefix, onerror=_unless_gone):
                for file in files:
                    path = Path(folder, file)
                    try:
                        seen = path.stat()
                    except FileNotFoundError:
                        continue  # renamed or deleted meanwhile
                    yield StoredBlob(
                        name=path.relative_to(self._root).as_posix(),
                        size=seen.st_size,
                        put_time=datetime.fromtimestamp(seen.st_mtime, UTC),
                    )
        except OSError as error:
            raise BlobStoreAway(error.strerror) from error

    def _delete(self, names: Sequence[str]) -> None:
        try:
            for name in names:
                (self._root / name).unlink(missing_ok=True)
            # Folders go by and by: one in which somebody puts something at this moment is not empty, or made again.
            for folder in {(self._root / name).parent for name in names}:
                self._remove_empty(folder)
        except OSError as error:
            raise BlobStoreAway(error.strerror) from error

    def _remove_empty(self, folder: Path) -> None:
        while folder != self._root:
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _open_new(path: Path) -> int:
    """Opens a new file. Its folder may go at any moment until then, for one that is empty is deleted."""
    while True:
        _make_directory(path.parent)
        try:
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE_FILE)
        except FileNotFoundError:
            continue


def _make_directory(path: Path) -> None:
    """Makes a directory and its parents, each on the disk."""
    if path.exists():
        return
    _make_directory(path.parent)
    path.mkdir(mode=_PRIVATE_DIRECTORY, exist_ok=True)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
