"""The key-encryption key in a file that only its owner may read.

Each line is `<id> <32 bytes in base64>`. The first line wraps; the others still unwrap, so a new key is put in front.
"""

import asyncio
import base64
import binascii
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.meshkit.crypto.errors import KekFileUnsafe, SealBroken

_KEY_BYTES: Final = 32
_ID_BYTES: Final = 8
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_VERSION: Final = b"\x01"


def create_kek_file(path: Path) -> None:
    """Makes a file with a new key, mode 0600. Leaves an existing file alone: without it no data can be read."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{secrets.token_hex(_ID_BYTES)} {base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()}\n")
        file.flush()
        os.fsync(file.fileno())


class KekFile:
    """Wraps data keys with AES-256-GCM under the key of a file. A `KeyWrapper`."""

    def __init__(self, keys: dict[bytes, bytes]) -> None:
        self._keys = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self._current = next(iter(keys))

    @classmethod
    async def read(cls, path: Path) -> "KekFile":
        """Reads the file.

        Raises: KekFileUnsafe: missing, readable or writable by others, or not of this form.
        """
        return cls(await asyncio.to_thread(_read, path))

    async def wrap(self, key: bytes, *, context: bytes) -> bytes:
        """See `KeyWrapper.wrap`."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        head = _VERSION + self._current
        return head + nonce + self._keys[self._current].encrypt(nonce, key, head + context)

    async def unwrap(self, wrapped: bytes, *, context: bytes) -> bytes:
        """See `KeyWrapper.unwrap`."""
        body = len(_VERSION) + _ID_BYTES
        kek = self._keys.get(wrapped[1:body])
        if len(wrapped) < body + _NONCE_BYTES + _TAG_BYTES or wrapped[:1] != _VERSION or kek is None:
            raise SealBroken("a data key was wrapped with a key-encryption key that this service does not have")
        nonce, sealed = wrapped[body : body + _NONCE_BYTES], wrapped[body + _NONCE_BYTES :]
        try:
            return kek.decrypt(nonce, sealed, wrapped[:body] + context)
        except InvalidTag as cause:
            raise SealBroken("a wrapped data key is damaged or belongs to another tenant") from cause


def _read(path: Path) -> dict[bytes, bytes]:
    try:
        with path.open() as file:
            mode = os.fstat(file.fileno()).st_mode
            lines = file.read(64_000).split("\n")
    except OSError as cause:
        raise KekFileUnsafe(f"cannot read the key file {path}; `comitia up` makes one", path=path) from cause
    if not stat.S_ISREG(mode) or mode & 0o077:
        raise KekFileUnsafe(f"others may read the key file {path}; run `chmod 600 {path}`", path=path)
    keys: dict[bytes, bytes] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            key_id, key = line.split()
            keys[bytes.fromhex(key_id)] = base64.b64decode(key, validate=True)
        except (ValueError, binascii.Error) as cause:
            raise KekFileUnsafe(f"line {number} of the key file {path} is not `<id> <base64>`", path=path) from cause
    if not keys or any(len(key_id) != _ID_BYTES or len(key) != _KEY_BYTES for key_id, key in keys.items()):
        raise KekFileUnsafe(f"the key file {path} must hold ids of 8 bytes and keys of 32 bytes", path=path)
    return keys
