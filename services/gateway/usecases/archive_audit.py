"""Moves old entries out of the database; their hashes stay, so that every proof goes on working."""

from datetime import timedelta
from typing import Final

from comitia_sdk.audit.lines import entry_line
from services.gateway.usecases.audit_ports import AuditTrails, HeadStore
from services.meshkit.core.clock import Clock
from services.meshkit.telemetry.logs import logger

#: Most entries in one file of the archive.
PART_ENTRIES: Final = 5_000

log = logger(__name__)


class ArchiveAudit:
    """Writes the oldest entries of one tenant to the archive, then takes their contents out of the table.

    Only signed entries go. Between the two steps an entry lies in both places, which harms nobody: the next round
    writes the same file again.
    """

    def __init__(self, *, trails: AuditTrails, store: HeadStore, clock: Clock, keep: timedelta) -> None:
        self._trails = trails
        self._store = store
        self._clock = clock
        self._keep = keep

    async def __call__(self) -> bool:
        """Returns: True when there may be more. Raises: Unavailable."""
        found = await self._trails.archivable(self._clock.now() - self._keep, most=PART_ENTRIES)
        if found is None:
            return False
        lines = [entry_line(one.index, one.canonical, one.leaf_hash, one.chain_hash) for one in found.entries]
        await self._store.put_archive(found.part, b"".join(lines))
        await self._trails.archived(found.part)
        log.info("audit entries archived", tenant=str(found.part.tenant), first=found.part.first, end=found.part.end)
        return True
