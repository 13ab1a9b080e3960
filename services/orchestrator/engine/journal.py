"""Packs a commit's facts into one sealed row, and opens rows again.

A fact that is too big for a row lies in the object store, sealed alike; the row names it. It is put there before the
row is committed, so a row never names what is not there.

What an export can prove without opening anything are the commitments: SHA-256 of each fact with its salt, which is
inside the sealed row. A destroyed data key leaves proof of order and nothing else.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import inf
from typing import Final

from comitia.orchestrator.v1 import journal_pb2, run_pb2, session_pb2
from services.meshkit.blobs.store import BlobStore
from services.meshkit.core.errors import Internal
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.crypto.commitments import SALT_BYTES
from services.meshkit.crypto.keyring import NONCE_BYTES, KeyRing, Sealer
from services.orchestrator.engine.run import OwnedRun, RunKind, RunView, RunWrite, SealedBlob, SealedRow
from services.orchestrator.engine.wire import head_of

#: What stands before a salt in a row's message: tag of field 2, and its length.
_SALT_HEAD: Final = bytes((0x12, SALT_BYTES))
#: How rows are laid out, and the highest version that can be read.
VERSION: Final = 0
#: Below it lies what is too big for a row: `blobs/<tenant>/<run>/<digest>`.
BLOBS: Final = "blobs/"
#: Objects that one commit or one read moves at once.
_AT_ONCE: Final = 8


class JournalUnknown(Internal):
    """A newer release wrote the row. Its run is left to replicas of that release; it is never guessed what it says."""

    reason = "JOURNAL_UNKNOWN"

    def __init__(self, run_id: str, first_sequence: int, version: int) -> None:
        super().__init__(
            f"the journal of {run_id} is of version {version} from fact {first_sequence} on, and this release knows "
            f"versions up to {VERSION}",
            run_id=run_id,
        )


class NoBlobStore(Internal):
    """A row names an object, and this process was given no object store. Set `COMITIA_ORCHESTRATOR_OBJECT_STORE`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalBlobs:
    """Where facts lie that are too big for a row."""

    store: BlobStore
    #: A fact of more bytes than this is too big.
    most_inline: int


class JournalCodec:
    """Seals and opens rows of the journal with the tenant's data key.

    Args:
        blobs: None keeps facts of any size in their rows.
    """

    def __init__(self, keys: KeyRing, blobs: JournalBlobs | None = None) -> None:
        self._keys = keys
        self._blobs = blobs

    def is_ready(self, write: RunWrite) -> bool:
        """Says whether a write can be sealed at once, with all its facts in its row."""
        if not self._keys.is_loaded(write.run.tenant):
            return False
        most = inf if self._blobs is None else self._blobs.most_inline
        return write.size <= most or all(entry.ByteSize() <= most for entry in write.entries)

    async def load(self, tenants: Iterable[TenantId]) -> None:
        """Makes the keys of these tenants ready, so that `seal` works in the next moments."""
        await self._keys.load(*tenants)

    def seal(self, writes: Sequence[RunWrite]) -> Iterator[SealedRow]:
        """Seals the facts of each write. Raises: KeyNotLoaded: `load` was not called."""
        # What is random is drawn at once, and each key looked up once: both cost more than sealing a row does.
        salts = secrets.token_bytes(SALT_BYTES * sum(len(write.entries) for write in writes))
        nonces = secrets.token_bytes(NONCE_BYTES * len(writes))
        most_inline = inf if self._blobs is None else self._blobs.most_inline
        sealers: dict[int, Sealer] = {}
        start = drawn = 0
        for write in writes:
            run = write.run
            # By its number, whose hash costs nothing.
            sealer = sealers.get(run.tenant.int)
            if sealer is None:
                sealer = sealers[run.tenant.int] = self._keys.sealer(run.tenant)
            row: list[bytes] = []
            commitments: list[bytes] = []
            blobs: list[SealedBlob] = []
            # Each fact is encoded once: what the commitment is of must be, byte for byte, what lies in the row.
            for encoded in write.encoded:
                salt = salts[start : start + SALT_BYTES]
                start += SALT_BYTES
                commitments.append(sha256(salt + encoded).digest())
                if len(encoded) > most_inline:
                    index = len(commitments) - 1
                    blob = self._taken_from(write, index, encoded)
                    blobs.append(blob)
                    place = journal_pb2.JournalRow()
                    place.blobs.add(index=index, digest=blob.digest)
                    row.append(place.SerializeToString())
                    encoded = b""
                row += head_of(len(encoded)), encoded, _SALT_HEAD, salt
            nonce = nonces[drawn : drawn + NONCE_BYTES]
            drawn += NONCE_BYTES
            sealed = sealer.seal(nonce, b"".join(row), aad=_aad(run.run_id, write.first_sequence))
            yield SealedRow(sealed, b"".join(commitments), blobs)

    def _taken_from(self, write: RunWrite, index: int, content: bytes) -> SealedBlob:
        """Makes an object of a fact that is too big for its row, which names it from now on."""
        tenant, run_id = write.run.tenant, write.run.run_id
        # The time of its record is part of a fact: it has this name in no other run and at no other time.
        digest = self._keys.digest_sync(tenant, content)
        name = blob_name(tenant, run_id, digest)
        sealed = self._keys.seal_sync(tenant, content, aad=name.encode())
        return SealedBlob(sequence=write.first_sequence + index, digest=digest, name=name, content=sealed)

    async def put(self, blobs: Iterable[SealedBlob]) -> None:
        """Puts what is too big for its row, before the row is committed. Harmless to repeat. Raises: BlobStoreAway."""
        found = list(blobs)
        waiting = iter(found)

        async def put_some() -> None:
            for blob in waiting:
                await self._store.put(blob.name, blob.content)

        if found:
            await _all(put_some() for _ in range(_AT_ONCE))

    @property
    def _store(self) -> BlobStore:
        if self._blobs is None:
            raise NoBlobStore("a fact lies in the object store, and none is set here")
        return self._blobs.store

    async def open(self, tenant: TenantId, run_id: str, first_sequence: int, sealed: bytes) -> journal_pb2.JournalRow:
        """Opens a row.

        Raises: SealBroken: it was changed, or belongs elsewhere. KeyDestroyed. JournalUnknown. BlobStoreAway,
            BlobMissing.
        """
        row = journal_pb2.JournalRow.FromString(await self._keys.open(tenant, sealed, aad=_aad(run_id, first_sequence)))
        _check_version(row.version, run_id, first_sequence)
        for index, content in await self._taken_out(tenant, run_id, row.blobs):
            row.entries[index].MergeFromString(content)
        return row

    async def open_bytes(
        self, tenant: TenantId, run_id: str, first_sequence: int, sealed: bytes
    ) -> journal_pb2.JournalRowBytes:
        """Opens a row and leaves its entries as they lie there, which is what commitments are made of. As `open`."""
        row = journal_pb2.JournalRowBytes.FromString(
            await self._keys.open(tenant, sealed, aad=_aad(run_id, first_sequence))
        )
        _check_version(row.version, run_id, first_sequence)
        for index, content in await self._taken_out(tenant, run_id, row.blobs):
            row.entries[index] = content
        return row

    async def _taken_out(
        self, tenant: TenantId, run_id: str, named: Sequence[journal_pb2.EntryBlob]
    ) -> Sequence[tuple[int, bytes]]:
        """Gives what was too big for a row, with its place there."""
        found: list[tuple[int, bytes]] = []
        waiting = iter(named)

        async def get_some() -> None:
            for blob in waiting:
                name = blob_name(tenant, run_id, blob.digest)
                sealed = await self._store.get(name)
                found.append((blob.index, await self._keys.open(tenant, sealed, aad=name.encode())))

        if named:
            await _all(get_some() for _ in range(_AT_ONCE))
        return found

    def seal_view(self, run: OwnedRun, view: RunView) -> bytes:
        """Seals what callers see of a run. Raises: KeyNotLoaded: `load` was not called."""
        return self._keys.seal_sync(run.tenant, view.SerializeToString(), aad=_aad(run.run_id, 0))

    async def open_view(self, tenant: TenantId, run_id: str, sealed: bytes, kind: RunKind) -> RunView:
        """Opens what callers see of a run."""
        view = await self._keys.open(tenant, sealed, aad=_aad(run_id, 0))
        return session_pb2.Session.FromString(view) if kind is RunKind.SESSION else run_pb2.Run.FromString(view)

    async def seal_answer(self, tenant: TenantId, answer: bytes, *, place: bytes) -> bytes:
        """Seals the kept answer to a request."""
        return await self._keys.seal(tenant, answer, aad=place)

    async def open_answer(self, tenant: TenantId, sealed: bytes, *, place: bytes) -> bytes:
        """Opens the kept answer to a request."""
        return await self._keys.open(tenant, sealed, aad=place)


def blob_name(tenant: TenantId, run_id: str, digest: bytes) -> str:
    """Names an object of a run in the store."""
    return f"{blobs_of(tenant)}{run_id}/{digest.hex()}"


def blobs_of(tenant: TenantId) -> str:
    """Names the folder of a tenant's objects."""
    return f"{BLOBS}{from_uuid('tenant', tenant)}/"


async def _all(work: Iterable[Awaitable[None]]) -> None:
    """Waits for all of it, and then fails as the first that failed."""
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if outcome is not None:
            raise outcome


def _check_version(version: int, run_id: str, first_sequence: int) -> None:
    if version > VERSION:
        raise JournalUnknown(run_id, first_sequence, version)


def _aad(run_id: str, first_sequence: int) -> bytes:
    return f"{run_id}/{first_sequence}".encode()
