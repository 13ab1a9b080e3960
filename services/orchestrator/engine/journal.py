"""Packs a commit's facts into one sealed row, and opens rows again.

What an export can prove without opening anything are the commitments: SHA-256 of each fact with its salt, which is
inside the sealed row. A destroyed data key leaves proof of order and nothing else.
"""

from collections.abc import Iterable

from comitia.orchestrator.v1 import journal_pb2, session_pb2
from services.meshkit.core.identity import TenantId
from services.meshkit.crypto.commitments import commit, new_salt
from services.meshkit.crypto.keyring import KeyRing


class JournalCodec:
    """Seals and opens rows of the journal with the tenant's data key."""

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys

    async def seal(
        self, tenant: TenantId, run_id: str, first_sequence: int, entries: Iterable[journal_pb2.JournalEntry]
    ) -> tuple[bytes, bytes]:
        """Seals the facts of one commit.

        Returns: the sealed row, and the commitments of its facts, 32 bytes each, in order.
        """
        row = journal_pb2.JournalRow(entries=entries)
        commitments = bytearray()
        for entry in row.entries:
            salt = new_salt()
            row.salts.append(salt)
            commitments += commit(salt, entry.SerializeToString(deterministic=True))
        payload = row.SerializeToString(deterministic=True)
        sealed = await self._keys.seal(tenant, payload, aad=_aad(run_id, first_sequence))
        return sealed, bytes(commitments)

    async def open(self, tenant: TenantId, run_id: str, first_sequence: int, sealed: bytes) -> journal_pb2.JournalRow:
        """Opens a row. Raises: SealBroken: it was changed, or belongs elsewhere. KeyDestroyed."""
        return journal_pb2.JournalRow.FromString(
            await self._keys.open(tenant, sealed, aad=_aad(run_id, first_sequence))
        )

    async def seal_view(self, tenant: TenantId, view: session_pb2.Session) -> bytes:
        """Seals what callers see of a run."""
        return await self._keys.seal(tenant, view.SerializeToString(), aad=_aad(view.session_id, 0))

    async def open_view(self, tenant: TenantId, run_id: str, sealed: bytes) -> session_pb2.Session:
        """Opens what callers see of a run."""
        return session_pb2.Session.FromString(await self._keys.open(tenant, sealed, aad=_aad(run_id, 0)))

    async def seal_answer(self, tenant: TenantId, answer: bytes, *, place: bytes) -> bytes:
        """Seals the kept answer to a request."""
        return await self._keys.seal(tenant, answer, aad=place)

    async def open_answer(self, tenant: TenantId, sealed: bytes, *, place: bytes) -> bytes:
        """Opens the kept answer to a request."""
        return await self._keys.open(tenant, sealed, aad=place)


def _aad(run_id: str, first_sequence: int) -> bytes:
    return f"{run_id}/{first_sequence}".encode()
