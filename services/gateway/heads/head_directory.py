"""Signed heads in a directory: one file per tenant and day, to which lines are added and nothing else.

    <root>/heads/<tenant>/2026-03-01.jsonl        one line `{"head":{…}}` for each head, as in an export
    <root>/archive/<tenant>/<first>-<end>.jsonl   archived entries, as in an export
    <root>/erased/<tenant>                        a signed note: erase it, whatever a restored database says

A line that a crash cut short is left where it is and passed over; the next one begins on a line of its own. Give the
directory to the gateway alone, and, for proof against the machine's own administrator, put it on storage that only
takes additions. Several gateways share it by a file system that they all see.
"""

import asyncio
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from comitia_sdk.audit.head import Head, HeadMalformed
from comitia_sdk.audit.lines import head_line, read_head
from services.gateway.domain.audit_errors import HeadStoreDamaged
from services.gateway.domain.tenant import TENANT_PREFIX
from services.gateway.usecases.audit_ports import ArchivePart
from services.meshkit.core.errors import Invalid, Unavailable
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid, to_uuid

_PRIVATE_DIRECTORY: Final = 0o700
_PRIVATE_FILE: Final = 0o600
_ERASED: Final = "erased"
#: How the store is named to those who wait for it.
STORE: Final = "the store of audit heads"


class HeadDirectory:
    """Implements `usecases.audit_ports.HeadStore` and `heads.erasure_notes.NoteStore`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def add(self, heads: Mapping[TenantId, Head]) -> None:
        """See `HeadStore.add`. Each line is on the disk when it returns."""
        await asyncio.to_thread(self._add, heads)

    async def tenants(self) -> list[TenantId]:
        """See `HeadStore.tenants`."""
        return await asyncio.to_thread(self._tenants)

    async def newest(self, tenant: TenantId, *, above: int = 0) -> Head | None:
        """See `HeadStore.newest`."""
        found = await asyncio.to_thread(self._newest, tenant)
        return found if found is not None and found.size > above else None

    async def put_archive(self, part: ArchivePart, lines: bytes) -> None:
        """See `HeadStore.put_archive`."""
        await asyncio.to_thread(_write, self._part(part), lines)

    async def archive(self, part: ArchivePart) -> bytes:
        """See `HeadStore.archive`."""
        return await asyncio.to_thread(self._archive, part)

    async def keep_note(self, name: str, content: bytes) -> None:
        """See `NoteStore.keep_note`."""
        await asyncio.to_thread(_write, self._root / _ERASED / name, content)

    async def notes(self) -> dict[str, bytes]:
        """See `NoteStore.notes`."""
        return await asyncio.to_thread(self._notes)

    def _add(self, heads: Mapping[TenantId, Head]) -> None:
        by_file: dict[Path, list[Head]] = defaultdict(list)
        for tenant, head in heads.items():
            by_file[self._heads(tenant) / f"{head.sign_time[:10]}.jsonl"].append(head)
        try:
            for path, listed in by_file.items():
                _append(path, b"".join(map(head_line, listed)))
        except OSError as error:
            raise Unavailable(STORE, cause=error.strerror) from error

    def _notes(self) -> dict[str, bytes]:
        folder = self._root / _ERASED
        try:
            listed = folder.iterdir() if folder.exists() else ()
            return {path.name: path.read_bytes() for path in listed if path.is_file()}
        except OSError as error:
            raise Unavailable(STORE, cause=error.strerror) from error

    def _tenants(self) -> list[TenantId]:
        try:
            names = sorted(path.name for path in (self._root / "heads").iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise Unavailable(STORE, cause=error.strerror) from error
        return [tenant_named(name) for name in names]

    def _newest(self, tenant: TenantId) -> Head | None:
        folder = self._heads(tenant)
        unreadable = False
        try:
            for day in sorted(folder.iterdir(), reverse=True) if folder.exists() else ():
                content = day.read_bytes()
                found = max(_heads_in(content), key=lambda head: head.size, default=None)
                if found is not None:
                    return found
                unreadable = unreadable or b"\n" in content
        except OSError as error:
            raise Unavailable(STORE, cause=error.strerror) from error
        if unreadable:
            raise HeadStoreDamaged(f"{folder} holds no head that can be read", folder=folder)
        return None

    def _archive(self, part: ArchivePart) -> bytes:
        path = self._part(part)
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise HeadStoreDamaged(f"the archive lacks {path.name}", path=path) from error
        except OSError as error:
            raise Unavailable(STORE, cause=error.strerror) from error

    def _heads(self, tenant: TenantId) -> Path:
        return self._root / "heads" / from_uuid(TENANT_PREFIX, tenant)

    def _part(self, part: ArchivePart) -> Path:
        return self._root / "archive" / from_uuid(TENANT_PREFIX, part.tenant) / part_name(part)


def part_name(part: ArchivePart) -> str:
    """Names the file of a part so that names sort like indexes."""
    return f"{part.first:012d}-{part.end:012d}.jsonl"


def tenant_named(name: str) -> TenantId:
    """Reads a tenant's folder. Raises: HeadStoreDamaged."""
    try:
        return TenantId(to_uuid(name, TENANT_PREFIX))
    except Invalid as error:
        raise HeadStoreDamaged(f"the store of audit heads holds {name!r}, which is no tenant", name=name) from error


def _heads_in(content: bytes) -> Iterator[Head]:
    for line in content.splitlines(keepends=True):
        try:
            yield read_head(line)
        except HeadMalformed:
            continue  # cut short by a crash; whatever else it was, the check against the chain finds it


def _write(path: Path, content: bytes) -> None:
    """Writes a whole file, on the disk, over what was there. Raises: Unavailable."""
    try:
        _make_directory(path.parent)
        draft = path.with_suffix(".new")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _PRIVATE_FILE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        raise Unavailable(STORE, cause=error.strerror) from error


def _append(path: Path, lines: bytes) -> None:
    if not path.parent.exists():
        _make_directory(path.parent)
    is_new = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, _PRIVATE_FILE)
    try:
        end = os.fstat(descriptor).st_size
        if end and os.pread(descriptor, 1, end - 1) != b"\n":
            lines = b"\n" + lines
        if os.write(descriptor, lines) != len(lines):
            raise OSError(28, "the disk is full")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if is_new:
        _sync_directory(path.parent)


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
