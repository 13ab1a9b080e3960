"""Proves that an entry is in a signed tree, and that one signed tree is the beginning of another."""

from collections.abc import Sequence
from dataclasses import dataclass

from comitia_sdk.audit import merkle
from comitia_sdk.audit.head import Head
from services.gateway.domain.audit_entry import ChainedEntry
from services.gateway.domain.audit_errors import NotYetSigned
from services.gateway.usecases.audit_ports import AuditReader
from services.gateway.usecases.read_audit import ReadAudit
from services.meshkit.core.errors import Invalid, NotFound
from services.meshkit.core.identity import TenantId


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryProof:
    """An entry, and the way from it to the root of a signed head."""

    entry: ChainedEntry
    path: Sequence[bytes]
    head: Head


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsistencyProof:
    """Two heads, and the proof that the first is the beginning of the second."""

    first: Head
    second: Head
    path: Sequence[bytes]


class ProveEntry:
    """Makes inclusion proofs."""

    def __init__(self, *, reader: AuditReader, read: ReadAudit) -> None:
        self._reader = reader
        self._read = read

    async def __call__(self, tenant: TenantId, index: int, *, size: int) -> EntryProof:
        """Raises: Invalid, NotFound, NotYetSigned.

        Args:
            size: of the head to prove against; 0 for the newest.
        """
        if index < 0:
            raise Invalid("index", "must not be negative")
        if size < 0:
            raise Invalid("size", "must be that of a signed head, or 0 for the newest")
        if index >= await self._reader.size(tenant):
            raise NotFound("audit entry", str(index), field="index")
        head = await self._head(tenant, index, size)
        hashes = await self._reader.hashes(tenant, merkle.inclusion_places(index, head.size))
        entry = await self._read.one(tenant, index)
        return EntryProof(entry=entry, path=merkle.inclusion_path(index, head.size, hashes), head=head)

    async def _head(self, tenant: TenantId, index: int, size: int) -> Head:
        if not size:
            newest = await self._reader.newest_head(tenant, covering=index)
            if newest is None:
                raise NotYetSigned(index)
            return newest
        head = await self._reader.head(tenant, size)
        if head is None:
            raise NotFound("signed head", str(size), field="size")
        if size <= index:
            raise Invalid("size", f"a head over {size} entries does not cover entry {index}")
        return head


class ProveConsistency:
    """Makes consistency proofs."""

    def __init__(self, *, reader: AuditReader) -> None:
        self._reader = reader

    async def __call__(self, tenant: TenantId, first_size: int, second_size: int) -> ConsistencyProof:
        """Raises: Invalid, NotFound.

        Args:
            second_size: 0 for the newest head.
        """
        if first_size < 1:
            raise Invalid("first_size", "must be that of a signed head, at least 1")
        if second_size and second_size < first_size:
            raise Invalid("second_size", "must not be smaller than first_size, or 0 for the newest head")
        first = await self._reader.head(tenant, first_size)
        if first is None:
            raise NotFound("signed head", str(first_size), field="first_size")
        second = await (self._reader.head(tenant, second_size) if second_size else self._reader.newest_head(tenant))
        if second is None:
            raise NotFound("signed head", str(second_size), field="second_size")
        hashes = await self._reader.hashes(tenant, merkle.consistency_places(first.size, second.size))
        path = merkle.consistency_path(first.size, second.size, hashes)
        return ConsistencyProof(first=first, second=second, path=path)
