"""Packs a commit's facts into one sealed row, and opens rows again.

What an export can prove without opening anything are the commitments: SHA-256 of each fact with its salt, which is
inside the sealed row. A destroyed data key leaves proof of order and nothing else.
"""

from collections.abc import Iterable

from comitia.orchestrator.v1 import journal_pb2, run_pb2, session_pb2
from services.meshkit.core.identity import TenantId
from services.meshkit.crypto.commitments import commit, new_salts
from services.meshkit.crypto.keyring import KeyRing
from services.orchestrator.engine.run import OwnedRun, RunKind, RunView, RunWrite


class JournalCodec:
    """Seals and opens rows of the journal with the tenant's data key."""

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys

    async def load(self, tenants: Iterable[TenantId]) -> None:
        """Makes the keys of these tenants ready, so that `seal` works in the next moments."""
        await self._keys.load(*tenants)

    def seal(self, write: RunWrite) -> tuple[bytes, bytes]:
        """Seals the facts of one write.

        Returns: the sealed row, and the commitments of its facts, 32 bytes each, in order.
        Raises: KeyNotLoaded: `load` was not called.
        """
        encoded = [entry.SerializeToString() for entry in write.entries]
        salts = new_salts(len(encoded))
        commitments = b"".join(map(commit, salts, encoded))
        # Each fact is encoded once: what the commitment is of must be, byte for byte, what lies in the row.
        row = journal_pb2.JournalRow(salts=salts).SerializeToString() + b"".join(map(_as_entry, encoded))
        sealed = self._keys.seal_sync(write.run.tenant, row, aad=_aad(write.run.run_id, write.first_sequence))
        return sealed, commitments

    async def open(self, tenant: TenantId, run_id: str, first_sequence: int, sealed: bytes) -> journal_pb2.JournalRow:
        """Opens a row. Raises: SealBroken: it was changed, or belongs elsewhere. KeyDestroyed."""
        return journal_pb2.JournalRow.FromString(
            await self._keys.open(tenant, sealed, aad=_aad(run_id, first_sequence))
        )

    async def open_bytes(
        self, tenant: TenantId, run_id: str, first_sequence: int, sealed: bytes
    ) -> journal_pb2.JournalRowBytes:
        """Opens a row and leaves its entries as they lie there, which is what commitments are made of. As `open`."""
        return journal_pb2.JournalRowBytes.FromString(
            await self._keys.open(tenant, sealed, aad=_aad(run_id, first_sequence))
        )

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


def _aad(run_id: str, first_sequence: int) -> bytes:
    return f"{run_id}/{first_sequence}".encode()


def _as_entry(encoded: bytes) -> bytes:
    """Puts an encoded fact the way a row's message holds it: tag of field 1, length as varint, bytes."""
    head, length = bytearray(b"\x0a"), len(encoded)
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + encoded
