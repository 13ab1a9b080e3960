"""Looks whether the head store still has the heads of which the database has copies."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from comitia_sdk.audit.head import Head
from services.gateway.domain.audit_errors import HeadStoreDamaged
from services.gateway.usecases.audit_ports import AuditReader, AuditTrails, HeadStore
from services.meshkit.core.identity import TenantId

#: A backup copies the head store before the database, tenant by tenant: what was signed meanwhile, or later and came
#: from the log, is a copy alone until the gateway has put it back.
_MEANWHILE: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedHeads:
    """What the head store has."""

    #: Tenants of which it holds a head.
    in_store: int
    #: Tenants whose newest head the database alone has.
    copies_alone: int
    #: What is wrong with a tenant's.
    faults: Mapping[TenantId, str]


class CompareHeads:
    """Reads both. A head lies in the store before its copy is made, so a mesh at work disturbs nothing."""

    def __init__(self, *, store: HeadStore, trails: AuditTrails, reader: AuditReader) -> None:
        self._store = store
        self._trails = trails
        self._reader = reader

    async def __call__(self) -> ComparedHeads:
        """Raises: Unavailable: the head store or the database is away."""
        copies = {tenant: await self._reader.newest_head(tenant) for tenant in await self._trails.tenants()}
        kept, damaged = await self._kept()
        newest = max((_time_of(head) for head in kept.values()), default=None)
        alone = {
            tenant: copy
            for tenant, copy in copies.items()
            if copy is not None and tenant not in damaged and (tenant not in kept or kept[tenant].size < copy.size)
        }
        faults = {
            tenant: f"the head store lacks its head over {copy.size} entries, which was signed on {copy.sign_time}"
            for tenant, copy in alone.items()
            if newest is None or _time_of(copy) < newest - _MEANWHILE
        }
        return ComparedHeads(in_store=len(kept), copies_alone=len(alone), faults=faults)

    async def _kept(self) -> tuple[dict[TenantId, Head], set[TenantId]]:
        """Gives newest heads by tenant, and tenants whose heads cannot be read, as the comparison with chains says."""
        kept: dict[TenantId, Head] = {}
        damaged: set[TenantId] = set()
        for tenant in await self._store.tenants():
            try:
                head = await self._store.newest(tenant)
            except HeadStoreDamaged:
                damaged.add(tenant)
                continue
            if head is not None:
                kept[tenant] = head
        return kept, damaged


def _time_of(head: Head) -> datetime:
    return datetime.fromisoformat(head.sign_time)
