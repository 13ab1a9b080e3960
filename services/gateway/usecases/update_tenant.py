"""Changes what a tenant may use, and where its content must stay."""

from dataclasses import dataclass

from services.gateway.domain.etag import EtagStale
from services.gateway.domain.tenant import Tenant
from services.gateway.domain.tenant_errors import TenantEnded
from services.gateway.domain.tenant_rules import QuotaChange
from services.gateway.usecases.tenant_ports import BeginTenantWork
from services.meshkit.core.audit import note
from services.meshkit.core.identity import Caller, TenantId


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantChange:
    """What to change; None stays."""

    tenant: TenantId
    #: Empty for whichever version it is.
    etag: str
    residency_region: str | None
    quotas: QuotaChange | None


class UpdateTenant:
    """Changes region and quotas. For operators."""

    def __init__(self, *, begin: BeginTenantWork) -> None:
        self._begin = begin

    async def __call__(self, caller: Caller, change: TenantChange) -> Tenant:
        """Raises: NotFound, Invalid, EtagStale, TenantEnded, AnsweredBefore and its kin for a repeat."""
        home = caller.principal.tenant
        async with self._begin(home, change.tenant) as work:
            await work.claim_once()
            tenant = await work.tenants.lock(change.tenant)
            if tenant.ended:
                raise TenantEnded(tenant.id)
            if change.etag and change.etag != tenant.etag:
                raise EtagStale("tenant", sent=change.etag, now=tenant.etag)
            changed = tenant.changed(
                residency_region=change.residency_region,
                quotas=None if change.quotas is None else change.quotas.applied(tenant.quotas),
            )
            note(target=tenant.subject, details=_details(change))
            await work.tenants.replace(changed)
            await work.keep_once(changed)
            await work.commit()
        return changed


def _details(change: TenantChange) -> dict[str, object]:
    details: dict[str, object] = {}
    if change.residency_region is not None:
        details["residency_region"] = change.residency_region
    if change.quotas is not None:
        details |= change.quotas.counts
        if change.quotas.rate_factor is not None:
            details["rate_factor"] = change.quotas.rate_factor
    return details
