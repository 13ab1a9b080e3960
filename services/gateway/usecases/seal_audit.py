"""Signs heads over chains that have grown."""

import asyncio
from typing import Final

from comitia_sdk.audit import merkle
from comitia_sdk.audit.head import Head
from services.gateway.domain.audit_health import AuditHealth
from services.gateway.usecases.audit_ports import AuditReader, AuditTrails, HeadSigner, HeadStore, Unsigned
from services.meshkit.core.errors import Unavailable
from services.meshkit.core.identity import TenantId
from services.meshkit.telemetry.logs import logger
from services.meshkit.telemetry.metrics import AUDIT_CONTRADICTIONS, AUDIT_HEADS, AUDIT_SIGNED

#: Chains signed in one transaction.
_BATCH: Final = 200
#: Longest wait for the comparison that the process begins with.
_START_SECONDS: Final = 5.0

log = logger(__name__)


class CheckAgainstHead:
    """Holds a tenant's stored chain and tree against a head that was signed over it earlier."""

    def __init__(self, *, reader: AuditReader, health: AuditHealth) -> None:
        self._reader = reader
        self._health = health

    async def __call__(self, tenant: TenantId, head: Head) -> bool:
        """Returns: whether they agree. A contradiction is an alarm and stays one until the process starts anew."""
        wrong = await self._difference(tenant, head)
        if wrong is not None:
            note_contradiction(self._health, tenant, wrong)
        return wrong is None

    async def _difference(self, tenant: TenantId, head: Head) -> str | None:
        size = await self._reader.size(tenant)
        if size < head.size:
            return f"it has {size} entries, and a head over {head.size} was signed on {head.sign_time}"
        places = merkle.root_places(head.size)
        hashes = await self._reader.hashes(tenant, places)
        chain = await self._reader.chain_hash(tenant, head.size - 1)
        if len(hashes) < len(places) or merkle.root_of(head.size, hashes) != head.root_hash or chain != head.chain_hash:
            return f"its first {head.size} entries are not those that were signed on {head.sign_time}"
        return None


class SealAudit:
    """Signs heads, puts them into the head store, then keeps copies in the database.

    Before a chain is signed it is held against its last head, as this process knows it from the head store: nothing is
    signed over a history that was changed.
    """

    def __init__(
        self,
        *,
        trails: AuditTrails,
        check: CheckAgainstHead,
        store: HeadStore,
        signer: HeadSigner,
        health: AuditHealth,
    ) -> None:
        self._trails = trails
        self._check = check
        self._store = store
        self._signer = signer
        self._health = health
        self._last: dict[TenantId, Head] = {}
        self._compared = asyncio.Event()

    def open(self) -> None:
        """Lets signing begin: the heads of the head store were compared with what is stored."""
        self._compared.set()

    def remember(self, tenant: TenantId, head: Head) -> None:
        """Takes a head from the head store as the last one of its tenant."""
        self._last[tenant] = head

    async def __call__(self, tenant: TenantId | None = None) -> bool:
        """Signs for one tenant, or for all of whom something is new.

        Returns: True when there may be more.
        Raises: Unavailable: the head store or the database is away, or the comparison at the start has not been done
            yet; nothing is lost.
        """
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._compared.wait()
        except TimeoutError as error:
            raise Unavailable("the audit trail") from error
        async with self._trails.seal() as sealing:
            found = await sealing.unsigned(tenant, without=self._health.contradictions.keys(), most=_BATCH)
            grown = [one for one in found if await self._is_sound(one)]
            if grown:
                heads = {one.tenant: self._signer.sign(one) for one in grown}
                await self._store.add(heads)
                await sealing.signed(heads)
                await sealing.commit()
                self._last.update(heads)
                AUDIT_HEADS.inc(len(heads))
        more = len(found) == _BATCH
        if tenant is None and not more and len(grown) == len(found):
            AUDIT_SIGNED.set_to_current_time()
        return more

    async def _is_sound(self, grown: Unsigned) -> bool:
        last = self._last.get(grown.tenant)
        return last is None or await self._check(grown.tenant, last)


def note_contradiction(health: AuditHealth, tenant: TenantId, wrong: str) -> None:
    """Raises the alarm, once per tenant."""
    if tenant not in health.contradictions:
        log.error("the audit trail of a tenant was rewritten; nothing is signed over it", tenant=str(tenant), why=wrong)
    health.contradictions[tenant] = wrong
    AUDIT_CONTRADICTIONS.set(len(health.contradictions))
