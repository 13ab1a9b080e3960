"""Keeps on disk what the gateway said of tenants and revocations, for a service that starts while it is away."""

import asyncio
import os
from hashlib import sha256
from pathlib import Path
from tempfile import mkstemp
from typing import Final

from google.protobuf.message import DecodeError

from comitia.gateway.v1 import guard_feed_service_pb2 as pb
from services.meshkit.core.clock import Clock
from services.meshkit.guard.feed import REMEMBER_REVOKED_SECONDS, GuardFeed
from services.meshkit.guard.follow import SILENT_SECONDS
from services.meshkit.telemetry.logs import logger

_EVERY_SECONDS: Final = 2.0
_DIGEST_BYTES: Final = 32

log = logger(__name__)


class KeptGuard:
    """Background work: writes what a feed knows to a file as it changes. No key and no hash of one is in it.

    The time of the file is that of the gateway's last word. Once it is longer ago than tokens live, no token is left
    that the file could let in, and it is not believed any more.
    """

    def __init__(self, feed: GuardFeed, path: Path, *, clock: Clock) -> None:
        self._feed = feed
        self._path = path
        self._clock = clock
        self._written = b""

    def recall(self) -> None:
        """Gives the feed what an earlier process wrote, if that is whole and of late."""
        try:
            age = self._clock.now().timestamp() - self._path.stat().st_mtime
            digest, body = _split(self._path.read_bytes())
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("what the gateway said last cannot be read", path=str(self._path), error=repr(error))
            return
        if age > REMEMBER_REVOKED_SECONDS:
            log.info("what the gateway said last is too old to go by", path=str(self._path), seconds=round(age))
            return
        try:
            if sha256(body).digest() != digest:
                raise DecodeError("the digest is that of something else")
            self._feed.recall(pb.WatchGuardResponse.FromString(body))
        except DecodeError as error:
            log.warning("what the gateway said last is damaged", path=str(self._path), error=repr(error))

    async def __call__(self) -> None:
        """Keeps until cancelled."""
        while True:
            await self._clock.sleep(_EVERY_SECONDS)
            await self.keep()

    async def keep(self) -> None:
        """Writes what is known, or only that it is still so; nothing while the gateway is silent."""
        if self._feed.age() > SILENT_SECONDS:
            return
        body = self._feed.to_keep().SerializeToString(deterministic=True)
        try:
            await asyncio.to_thread(self._write, body)
        except OSError as error:
            log.warning("what the gateway says cannot be kept", path=str(self._path), error=repr(error))

    def _write(self, body: bytes) -> None:
        now = self._clock.now().timestamp()
        if body == self._written and self._path.exists():
            os.utime(self._path, (now, now))
            return
        write_guard_file(self._path, body, now=now)
        self._written = body


def write_guard_file(path: Path, body: bytes, *, now: float) -> None:
    """Replaces the file in one step, so that no start finds half of it.

    Args:
        body: a message of the feed.
        now: Unix time at which it was so.
    Raises: OSError.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, beside = mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(descriptor, "wb") as file:
        file.write(sha256(body).digest() + body)
        file.flush()
        os.fsync(descriptor)
        os.utime(descriptor, (now, now))
    Path(beside).replace(path)


def _split(raw: bytes) -> tuple[bytes, bytes]:
    return raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
