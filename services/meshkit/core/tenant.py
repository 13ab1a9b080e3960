"""What every service knows of a tenant: whether it may work, what it may use, which rules it set itself."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol

from services.meshkit.core.errors import Exhausted
from services.meshkit.core.identity import TenantId


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
    #: Days after its end at which a run's facts go to the archive; 0 as the installation does.
    archive_after_days: int = 0
    #: Days after its end at which a run is deleted; 0 for never.
    delete_runs_after_days: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardedTenantState:
    """A tenant as services see it that do not own it."""

    state: TenantState = TenantState.ACTIVE
    quotas: Quotas = field(default_factory=Quotas)
    security_policy: SecurityPolicy = field(default_factory=SecurityPolicy)
    #: Region its content must stay in; empty means no rule.
    residency_region: str = ""


#: What holds for a tenant without quotas and rules.
UNRULED: Final = GuardedTenantState()


class KnowsTenants(Protocol):
    """What is known here of tenants; the guard feed is one."""

    def tenant(self, tenant: TenantId) -> GuardedTenantState | None:
        """Gives what is known; None for an active tenant without quotas and rules, and for an unknown one."""
        ...


def rules_of(tenants: KnowsTenants, tenant: TenantId) -> GuardedTenantState:
    """Gives what holds for a tenant."""
    return tenants.tenant(tenant) or UNRULED


class QuotaExceeded(Exhausted):
    """The tenant uses all that it may use of something. End or delete some of it, or ask the operator for more.

    Args:
        quota: name in the contract, such as `max_agents`.
        used: what is used without what was asked for.
    """

    reason = "QUOTA_EXCEEDED"

    def __init__(self, quota: str, *, limit: int, used: int) -> None:
        super().__init__(
            f"your tenant's quota {quota} is {limit}, and {used} is used; end or delete some of it, or ask the "
            "operator of the installation for more",
            quota=quota,
            limit=limit,
            used=used,
        )


class ErasureAction(Enum):
    """What the erasure of a tenant does to a store."""

    #: The rows are deleted.
    DELETE = "delete"
    #: The rows stay as proof of order; their key is destroyed, so nobody can read them.
    DESTROY_KEY = "destroy_key"
    #: They stay, and `ErasureStep.reason` says why.
    KEEP = "keep"


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureStep:
    """What happens to one store of a tenant's data."""

    service: str
    #: Table, collection or file set.
    store: str
    action: ErasureAction
    #: Rows or objects it concerns.
    count: int
    reason: str = ""
