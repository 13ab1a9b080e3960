"""The key-encryption key in a file that only its owner may read, or who its owner gave it to.

Each line is `<id> <32 bytes in base64>`. The first line wraps; the others still unwrap, so a new key is put in front.
The file is read again when it changes. Where it reaches several machines one after the other, the new key first stands
second until all have it.
"""

import asyncio
import base64
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.meshkit.crypto.errors import KekFileUnsafe, SealBroken
from services.meshkit.telemetry.logs import logger

_KEY_BYTES: Final = 32
_ID_BYTES: Final = 8
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_VERSION: Final = b"\x01"

log = logger(__name__)


def create_kek_file(path: Path) -> None:
    """Makes a file with a new key, mode 0600. Leaves an existing file alone: without it no data can be read."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w") as file:
        file.write(_new_line())
        file.flush()
        os.fsync(file.fileno())


def add_kek(path: Path) -> str:
    """Puts a new key in front of the others, which still unwrap; returns its id.

    Concurrency: readers see the old file or the new one, whole. One writer at a time.
    Raises: KekFileUnsafe: as `KekFile.read`.
    """
    lines = [_line(key_id, key) for key_id, key in _read(path).items()]
    fresh = _new_line()
    _replace(path, "".join([fresh, *lines]))
    return fresh.split()[0]


def drop_old_keks(path: Path) -> list[str]:
    """Removes all keys but the first; returns their ids. What they wrapped opens no more.

    Look first that no data key is wrapped by them, minutes after the first came: one that was wrapped a moment before
    may still be on its way to the database.
    Raises: KekFileUnsafe: as `KekFile.read`.
    """
    (current, key), *old = _read(path).items()
    if old:
        _replace(path, _line(current, key))
    return [key_id.hex() for key_id, _ in old]


def kek_ids(path: Path) -> list[str]:
    """Gives the ids of the keys in the file; the first wraps.

    Raises: KekFileUnsafe: as `KekFile.read`.
    """
    return [key_id.hex() for key_id in _read(path)]


class KekFile:
    """Wraps data keys with AES-256-GCM under the newest key of a file. A `KeyWrapper`."""

    def __init__(self, keys: dict[bytes, bytes], *, path: Path | None = None) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._take(keys)

    @classmethod
    async def read(cls, path: Path) -> "KekFile":
        """Reads the file, and again whenever it has changed when a key is needed.

        Raises: KekFileUnsafe: missing, readable or writable by others, or not of this form.
        """
        return cls(await asyncio.to_thread(_read, path), path=path)

    async def wrap(self, key: bytes, *, context: bytes) -> bytes:
        """See `KeyWrapper.wrap`."""
        await self._refresh()
        nonce = secrets.token_bytes(_NONCE_BYTES)
        head = _VERSION + self._current
        return head + nonce + self._keys[self._current].encrypt(nonce, key, head + context)

    async def unwrap(self, wrapped: bytes, *, context: bytes) -> bytes:
        """See `KeyWrapper.unwrap`."""
        body = len(_VERSION) + _ID_BYTES
        if wrapped[1:body] not in self._keys:
            await self._refresh()
        kek = self._keys.get(wrapped[1:body])
        if len(wrapped) < body + _NONCE_BYTES + _TAG_BYTES or wrapped[:1] != _VERSION or kek is None:
            raise SealBroken("a data key was wrapped with a key-encryption key that this service does not have")
        nonce, sealed = wrapped[body : body + _NONCE_BYTES], wrapped[body + _NONCE_BYTES :]
        try:
            return kek.decrypt(nonce, sealed, wrapped[:body] + context)
        except InvalidTag as cause:
            raise SealBroken("a wrapped data key is damaged or belongs to another tenant") from cause

    async def mark(self) -> bytes:
        """See `KeyWrapper.mark`."""
        await self._refresh()
        return _VERSION + self._current

    async def _refresh(self) -> None:
        """Reads the file again if it has changed. One that cannot be read leaves the keys that were good."""
        if self._path is None:
            return
        try:
            stamp = await asyncio.to_thread(_stamp, self._path)
            if stamp == self._stamp:
                return
            self._take(await asyncio.to_thread(_read, self._path))
        except KekFileUnsafe as error:
            log.error("the key file is not readable; the last good keys stay in use", error=error.message)
        else:
            self._stamp = stamp

    def _take(self, keys: dict[bytes, bytes]) -> None:
        self._keys = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self._current = next(iter(keys))


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError as cause:
        raise KekFileUnsafe(f"cannot read the key file {path}; `comitia up` makes one", path=path) from cause
    return found.st_mtime_ns, found.st_size, found.st_ino


def _new_line() -> str:
    return _line(secrets.token_bytes(_ID_BYTES), secrets.token_bytes(_KEY_BYTES))


def _line(key_id: bytes, key: bytes) -> str:
    return f"{key_id.hex()} {base64.b64encode(key).decode()}\n"


def _replace(path: Path, text: str) -> None:
    """Writes the file anew, all of it or nothing, and waits until it would survive a power cut."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _forbidden(found: os.stat_result) -> int:
    """Gives the bits of a mode that would let others at the keys.

    Where the file is somebody else's, such as a Secret that Kubernetes mounts for root and the group of the pod, the
    group is how we read it.
    """
    return 0o077 if found.st_uid == os.getuid() else 0o037


def _read(path: Path) -> dict[bytes, bytes]:
    try:
        with path.open() as file:
            found = os.fstat(file.fileno())
            lines = file.read(64_000).split("\n")
    except OSError as cause:
        raise KekFileUnsafe(f"cannot read the key file {path}; `comitia up` makes one", path=path) from cause
    if not stat.S_ISREG(found.st_mode) or found.st_mode & _forbidden(found):
        raise KekFileUnsafe(f"others may read the key file {path}; run `chmod 600 {path}`", path=path)
    keys: dict[bytes, bytes] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            key_id, key = line.split()
            keys[bytes.fromhex(key_id)] = base64.b64decode(key, validate=True)
        except ValueError as cause:
            raise KekFileUnsafe(f"line {number} of the key file {path} is not `<id> <base64>`", path=path) from cause
    if not keys or any(len(key_id) != _ID_BYTES or len(key) != _KEY_BYTES for key_id, key in keys.items()):
        raise KekFileUnsafe(f"the key file {path} must hold ids of 8 bytes and keys of 32 bytes", path=path)
    return keys
