"""Replaces the rules that a tenant sets itself."""

from ipaddress import ip_address, ip_network

from services.gateway.domain.etag import EtagStale
from services.gateway.domain.tenant import Tenant
from services.gateway.domain.tenant_errors import LockedOut, TenantEnded
from services.gateway.usecases.tenant_ports import BeginTenantWork
from services.meshkit.core.audit import note
from services.meshkit.core.identity import Caller
from services.meshkit.core.tenant import SecurityPolicy


class SetSecurityPolicy:
    """Replaces all rules of the caller's own tenant."""

    def __init__(self, *, begin: BeginTenantWork) -> None:
        self._begin = begin

    async def __call__(self, caller: Caller, policy: SecurityPolicy, *, etag: str, address: str) -> Tenant:
        """Gives the tenant as it is now.

        Args:
            policy: checked.
            address: where the caller is; empty when nobody knows.
        Raises: EtagStale, LockedOut, TenantEnded, AnsweredBefore and its kin for a repeat.
        """
        home = caller.principal.tenant
        async with self._begin(home) as work:
            await work.claim_once()
            tenant = await work.tenants.lock(home)
            if tenant.ended:
                raise TenantEnded(home)
            if etag and etag != tenant.etag:
                raise EtagStale("tenant", sent=etag, now=tenant.etag)
            if policy.allowed_networks and not _is_within(address, policy.allowed_networks):
                raise LockedOut(address or "(unknown)")
            changed = tenant.changed(security_policy=policy)
            note(target=tenant.subject, details=_details(policy))
            await work.tenants.replace(changed)
            await work.keep_once(changed)
            await work.commit()
        return changed


def _is_within(address: str, networks: tuple[str, ...]) -> bool:
    try:
        place = ip_address(address)
    except ValueError:
        return False
    return any(place in ip_network(network) for network in networks)


def _details(policy: SecurityPolicy) -> dict[str, object]:
    return {
        "tools_forbidden": policy.tools_forbidden,
        "allowed_tools": ",".join(sorted(policy.allowed_tools)) or "all",
        "allowed_hosts": ",".join(policy.allowed_hosts) or "all",
        "allowed_networks": ",".join(policy.allowed_networks) or "all",
        "audit_level": policy.audit_level.value,
        "archive_after_days": policy.archive_after_days,
        "delete_runs_after_days": policy.delete_runs_after_days,
    }
