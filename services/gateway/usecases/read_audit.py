"""Reads the trail across table and archive, and exports it with its heads."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

from comitia_sdk.audit import merkle
from comitia_sdk.audit.head import AuditKeys, Head
from comitia_sdk.audit.lines import read_entry_line
from services.gateway.domain.audit_entry import ChainedEntry
from services.gateway.domain.audit_errors import HeadStoreDamaged
from services.gateway.usecases.audit_ports import ArchivePart, AuditReader, HeadSigner, HeadStore
from services.gateway.usecases.seal_audit import SealAudit
from services.meshkit.core.identity import TenantId

_PAGE: Final = 500


class ReadAudit:
    """Gives entries wherever they lie."""

    def __init__(self, *, reader: AuditReader, store: HeadStore) -> None:
        self._reader = reader
        self._store = store

    async def stretch(self, tenant: TenantId, first: int, end: int) -> AsyncGenerator[ChainedEntry]:
        """Gives the entries of a range, in order. Raises: Unavailable, HeadStoreDamaged."""
        for part in await self._reader.archive_parts(tenant, first, end):
            for entry in await self._archived(part):
                if first <= entry.index < end:
                    yield entry
                    first = entry.index + 1
        while first < end:
            page = await self._reader.stretch(tenant, first, min(first + _PAGE, end))
            if not page:
                # They were archived since we looked.
                async for entry in self._rest(tenant, first, end):
                    yield entry
                return
            for entry in page:
                yield entry
            first = page[-1].index + 1

    async def one(self, tenant: TenantId, index: int) -> ChainedEntry:
        """Gives an entry that exists. Raises: Unavailable, HeadStoreDamaged."""
        async for entry in self.stretch(tenant, index, index + 1):
            return entry
        raise HeadStoreDamaged(f"entry {index} is neither in the table nor in the archive", index=index)

    async def _rest(self, tenant: TenantId, first: int, end: int) -> AsyncGenerator[ChainedEntry]:
        if not await self._reader.archive_parts(tenant, first, end):
            raise HeadStoreDamaged(f"entry {first} is neither in the table nor in the archive", index=first)
        async for entry in self.stretch(tenant, first, end):
            yield entry

    async def _archived(self, part: ArchivePart) -> list[ChainedEntry]:
        entries: list[ChainedEntry] = []
        for line in (await self._store.archive(part)).splitlines(keepends=True):
            read = read_entry_line(line)
            if read is None or merkle.leaf_hash(read.canonical) != read.leaf_hash:
                raise HeadStoreDamaged(
                    f"the archive of entries {part.first} to {part.end - 1} was changed", first=part.first
                )
            entries.append(
                ChainedEntry(
                    index=read.place, canonical=read.canonical, leaf_hash=read.leaf_hash, chain_hash=read.chain_hash
                )
            )
        return entries


@dataclass(frozen=True, slots=True)
class Exported:
    """One line of an export; exactly one of the three."""

    entry: ChainedEntry | None = None
    head: Head | None = None
    keys: AuditKeys | None = None


class ExportAudit:
    """Gives entries, heads and keys in the order of an export. What is not signed yet is signed first."""

    def __init__(self, *, read: ReadAudit, reader: AuditReader, seal: SealAudit, signer: HeadSigner) -> None:
        self._read = read
        self._reader = reader
        self._seal = seal
        self._signer = signer

    async def __call__(self, tenant: TenantId, *, first: int) -> AsyncGenerator[Exported]:
        """Raises: Unavailable: the head store is away, or the database."""
        await self._seal(tenant)
        newest = await self._reader.newest_head(tenant)
        end = 0 if newest is None else newest.size
        async for entry in self._read.stretch(tenant, first, end):
            yield Exported(entry=entry)
        used: set[str] = set()
        above = first
        while above < end:
            for head in await self._reader.heads(tenant, above=above, most=_PAGE):
                if head.size > end:
                    break
                yield Exported(head=head)
                used.add(head.key_id)
                above = head.size
        keys = self._signer.keys.keys
        yield Exported(keys=AuditKeys({kid: key for kid, key in keys.items() if kid in used}))
