"""What every service knows of a tenant: whether it may work, what it may use, which rules it set itself."""

from dataclasses import dataclass, field
from enum import Enum


class TenantState(Enum):
    """Where a tenant is in its life. Only an active one may do anything."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    DELETING = "deleting"
    DELETED = "deleted"


class AuditLevel(Enum):
    """How much of a tenant's calls goes into the audit trail."""

    #: Mutations and their refusals.
    MUTATIONS = "mutations"
    #: Also refused reads.
    REFUSALS = "refusals"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """What a tenant may use; 0 means no limit."""

    max_agents: int = 0
    max_workflows: int = 0
    max_concurrent_runs: int = 0
    max_storage_bytes: int = 0
    max_cost_nano_usd: int = 0
    #: Factor on the rate limits of every RPC, > 0.
    rate_factor: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityPolicy:
    """Rules that hold for everything a tenant does; empty means no rule."""

    allowed_tools: frozenset[str] = frozenset()
    tools_forbidden: bool = False
    allowed_hosts: tuple[str, ...] = ()
    #: In CIDR form.
    allowed_networks: tuple[str, ...] = ()
    audit_level: AuditLevel = AuditLevel.MUTATIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardedTenantState:
    """A tenant as services see it that do not own it."""

    state: TenantState = TenantState.ACTIVE
    quotas: Quotas = field(default_factory=Quotas)
    security_policy: SecurityPolicy = field(default_factory=SecurityPolicy)
    #: Region its content must stay in; empty means no rule.
    residency_region: str = ""
