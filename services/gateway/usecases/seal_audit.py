"""Signs heads over chains that have grown."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from comitia_sdk.audit import merkle
from comitia_sdk.audit.head import Head
from services.gateway.domain.audit_errors import HeadStoreDamaged
from services.gateway.domain.audit_health import AuditHealth
from services.gateway.usecases.audit_ports import AuditReader, AuditTrails, HeadSigner, HeadStore
from services.meshkit.core.errors import Unavailable
from services.meshkit.core.identity import TenantId
from services.meshkit.telemetry.logs import logger
from services.meshkit.telemetry.metrics import AUDIT_CONTRADICTIONS, AUDIT_HEADS, AUDIT_SIGNED, show_size

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


class LastHeads:
    """The newest head of each tenant as the head store has it, which no role of the database can change.

    Where the store lacks it, as after a restore, the copy in the database counts, for no such role can sign either.

    Args:
        most: tenants whose head stays in memory; the one not signed for longest goes first, and is fetched again.
    """

    def __init__(self, *, store: HeadStore, reader: AuditReader, signer: HeadSigner, most: int = 10_000) -> None:
        self._store = store
        self._reader = reader
        self._signer = signer
        self._most = most
        self._known: OrderedDict[TenantId, Head] = OrderedDict()
        #: Heads that were found as copies alone.
        self.lacking: dict[TenantId, Head] = {}
        show_size("gateway.audit_heads", self._known)

    async def of(self, tenant: TenantId) -> Head | None:
        """Gives it; None for a tenant without one.

        Raises: Unavailable: the head store or the database is away. HeadStoreDamaged.
        """
        head = self._known.get(tenant)
        if head is None:
            head = await self._fetch(tenant)
            if head is None:
                return None
            forged = self._signer.keys.verify(head)
            if forged is not None:
                raise HeadStoreDamaged(f"its newest head in the head store does not hold: {forged}")
            self.signed({tenant: head})
        return head

    def signed(self, heads: Mapping[TenantId, Head]) -> None:
        """Takes heads that the head store has as the newest."""
        for tenant, head in heads.items():
            self._known[tenant] = head
            self._known.move_to_end(tenant)
        while len(self._known) > self._most:
            self._known.popitem(last=False)

    async def _fetch(self, tenant: TenantId) -> Head | None:
        copy = await self._reader.newest_head(tenant)
        head = await self._store.newest(tenant, above=0 if copy is None else copy.size - 1)
        if head is None and copy is not None:
            log.error("the head store lacks a signed head", tenant=str(tenant), size=copy.size)
            if self._signer.keys.verify(copy) is None:
                self.lacking[tenant] = copy
                return copy
            head = await self._store.newest(tenant)
        return head


class SealAudit:
    """Signs heads, puts them into the head store, then keeps copies in the database.

    Before a chain is signed it is held against its last head in the head store: nothing is signed over a history that
    was changed.
    """

    def __init__(
        self,
        *,
        trails: AuditTrails,
        check: CheckAgainstHead,
        last: LastHeads,
        store: HeadStore,
        signer: HeadSigner,
        health: AuditHealth,
    ) -> None:
        self._trails = trails
        self._check = check
        self._last = last
        self._store = store
        self._signer = signer
        self._health = health
        self._compared = asyncio.Event()

    def open(self) -> None:
        """Lets signing begin: the heads of the head store were compared with what is stored."""
        self._compared.set()

    async def is_sound(self, tenant: TenantId) -> bool:
        """Holds a tenant's chain against its last head; an alarm when they do not agree. Raises: Unavailable."""
        try:
            last = await self._last.of(tenant)
        except HeadStoreDamaged as error:
            note_contradiction(self._health, tenant, error.message)
            return False
        return last is None or await self._check(tenant, last)

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
            await self._put_back()
            found = await sealing.unsigned(tenant, without=self._health.contradictions.keys(), most=_BATCH)
            grown = [one for one in found if await self.is_sound(one.tenant)]
            if grown:
                heads = {one.tenant: self._signer.sign(one) for one in grown}
                await self._store.add(heads)
                await sealing.signed(heads)
                await sealing.commit()
                self._last.signed(heads)
                AUDIT_HEADS.inc(len(heads))
        more = len(found) == _BATCH
        if tenant is None and not more and len(grown) == len(found):
            AUDIT_SIGNED.set_to_current_time()
        return more

    async def _put_back(self) -> None:
        """Gives the head store what it lacks, so that whoever compares the two finds what was lost since alone."""
        lacking = self._last.lacking
        sound = {tenant: head for tenant, head in lacking.items() if tenant not in self._health.contradictions}
        if sound:
            await self._store.add(sound)
            log.warning("heads were put back into the head store", tenants=len(sound))
        lacking.clear()


def note_contradiction(health: AuditHealth, tenant: TenantId, wrong: str) -> None:
    """Raises the alarm, once per tenant."""
    if tenant not in health.contradictions:
        log.error("the audit trail of a tenant was rewritten; nothing is signed over it", tenant=str(tenant), why=wrong)
    health.contradictions[tenant] = wrong
    AUDIT_CONTRADICTIONS.set(len(health.contradictions))
