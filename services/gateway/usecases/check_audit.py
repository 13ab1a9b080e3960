"""Looks whether the stored trail is still the one that was signed."""

from comitia_sdk.audit import merkle
from services.gateway.domain.audit_health import AuditHealth
from services.gateway.usecases.audit_ports import AuditReader, AuditTrails, HeadStore
from services.gateway.usecases.seal_audit import SealAudit, note_contradiction
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import TenantId
from services.meshkit.telemetry.logs import logger

log = logger(__name__)


class CheckHeads:
    """At the start: holds every tenant's chain against the newest head of the head store, then lets signing begin."""

    def __init__(self, *, store: HeadStore, trails: AuditTrails, seal: SealAudit, health: AuditHealth) -> None:
        self._store = store
        self._trails = trails
        self._seal = seal
        self._health = health

    async def __call__(self) -> None:
        """Raises: Unavailable: the head store or the database is away."""
        for tenant in sorted({*await self._store.tenants(), *await self._trails.tenants()}):
            await self._seal.is_sound(tenant)
        self._seal.open()
        log.info("audit heads checked", tenants_wrong=len(self._health.contradictions))


class ReadThrough:
    """Slowly, hashes all that is stored again: a change is found wherever it is, by the index of its entry.

    Args:
        page: entries read at once.
        pause_seconds: between two pages.
    """

    def __init__(
        self,
        *,
        trails: AuditTrails,
        reader: AuditReader,
        health: AuditHealth,
        clock: Clock,
        page: int = 200,
        pause_seconds: float = 0.2,
    ) -> None:
        self._trails = trails
        self._reader = reader
        self._health = health
        self._clock = clock
        self._page = page
        self._pause_seconds = pause_seconds

    async def __call__(self) -> None:
        """Reads all trails once. Raises: Unavailable."""
        for tenant in await self._trails.tenants():
            await self._read(tenant)

    async def _read(self, tenant: TenantId) -> None:
        size = await self._reader.size(tenant)
        tree, chain = merkle.Tree(), merkle.CHAIN_START
        for first in range(0, size, self._page):
            for link in await self._reader.links(tenant, first, min(first + self._page, size)):
                index = tree.size
                chain = merkle.chain_hash(chain, link.leaf_hash)
                nodes = b"".join(tree.append(link.leaf_hash))
                told = link.canonical is None or merkle.leaf_hash(link.canonical) == link.leaf_hash
                if not told or (link.index, link.chain_hash, link.subtrees) != (index, chain, nodes):
                    note_contradiction(self._health, tenant, f"entry {index} is not what was chained")
                    return
            await self._clock.sleep(self._pause_seconds)
        if tree.size < size:
            note_contradiction(self._health, tenant, f"it has lost the entries from {tree.size} on")
