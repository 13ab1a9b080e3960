"""What a tenant may use and the rules it sets itself, checked before they are taken."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_network
from math import isfinite
from typing import Final

from services.meshkit.core.errors import Invalid
from services.meshkit.core.hosts import ANY_HOST, checked_hosts
from services.meshkit.core.tenant import Quotas, SecurityPolicy

MAX_TOOLS: Final = 500
MAX_NETWORKS: Final = 100
MAX_RATE_FACTOR: Final = 1000.0
#: A hundred years.
MAX_DAYS: Final = 36_500
#: The counted quotas, by their names in the contract.
COUNTED: Final = ("max_agents", "max_workflows", "max_concurrent_runs", "max_storage_bytes", "max_cost_nano_usd")
_TOOL: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaChange:
    """New values of some quotas, by field name; what is not named stays."""

    counts: dict[str, int]
    rate_factor: float | None = None

    def applied(self, to: Quotas) -> Quotas:
        """Gives the quotas after the change. Raises: Invalid."""
        for name, value in self.counts.items():
            if value < 0:
                raise Invalid(f"tenant.quotas.{name}", "must not be negative; 0 means no limit")
        factor = to.rate_factor if self.rate_factor is None else self.rate_factor or 1.0
        if not (isfinite(factor) and 0 < factor <= MAX_RATE_FACTOR):
            raise Invalid("tenant.quotas.rate_factor", f"must be above 0 and at most {MAX_RATE_FACTOR:g}; 0 means 1")
        return replace(to, rate_factor=factor, **self.counts)


def checked_policy(policy: SecurityPolicy, *, networks: Iterable[str]) -> SecurityPolicy:
    """Gives the policy in its one spelling: hosts in lower case, networks as Python writes them, each once.

    Args:
        networks: the allowed networks as they were sent.
    Raises: Invalid.
    """
    field = "security_policy"
    if len(policy.allowed_tools) > MAX_TOOLS:
        raise Invalid(f"{field}.allowed_tools", f"must have at most {MAX_TOOLS} tools")
    for tool in sorted(policy.allowed_tools):
        if _TOOL.fullmatch(tool) is None:
            raise Invalid(f"{field}.allowed_tools", f"{tool[:100]!r} is no name of a tool")
    hosts = checked_hosts(policy.allowed_hosts, field=f"{field}.allowed_hosts")
    if ANY_HOST in hosts:
        raise Invalid(f"{field}.allowed_hosts", "must not have `*`; leave the list empty to allow every public host")
    _check_ages(policy, field)
    return replace(policy, allowed_hosts=hosts, allowed_networks=_networks(networks, f"{field}.allowed_networks"))


def _check_ages(policy: SecurityPolicy, field: str) -> None:
    archived, deleted = policy.archive_after_days, policy.delete_runs_after_days
    if not 0 <= archived <= MAX_DAYS:
        raise Invalid(
            f"{field}.archive_after_days", f"must be 1 to {MAX_DAYS} days; 0 means as the installation does it"
        )
    if not 0 <= deleted <= MAX_DAYS:
        raise Invalid(f"{field}.delete_runs_after_days", f"must be 1 to {MAX_DAYS} days; 0 means never")
    if 0 < deleted < archived:
        raise Invalid(
            f"{field}.delete_runs_after_days",
            f"must be at least `archive_after_days`, which is {archived}; 0 means never",
        )


def _networks(written: Iterable[str], field: str) -> tuple[str, ...]:
    kept: dict[str, None] = {}
    for index, text in enumerate(written):
        if index >= MAX_NETWORKS:
            raise Invalid(field, f"must have at most {MAX_NETWORKS} networks")
        try:
            kept[str(ip_network(text))] = None
        except ValueError as cause:
            raise Invalid(
                f"{field}[{index}]", "must be a network such as 10.0.0.0/8 or 2001:db8::/32, without host bits"
            ) from cause
    return tuple(kept)
