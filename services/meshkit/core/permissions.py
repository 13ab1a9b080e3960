"""What each role may do. The permission that an RPC asks for stands beside it in the proto."""

from collections.abc import Iterable
from typing import Final

from services.meshkit.core.identity import Role

#: Who else may come in and what everybody did: for those who govern or check a tenant.
_OVERSEE: Final = frozenset(
    {
        "access.read",
        "api_keys.read",
        "audit.export",
        "audit.read",
        "oidc_issuers.read",
        "service_accounts.read",
        "turns.export",
        "users.read",
    }
)
_READ: Final = frozenset(
    {
        "agents.read",
        "budgets.read",
        "costs.read",
        "identity.read",
        "memories.read",
        "models.read",
        "policies.read",
        "prices.read",
        "runs.read",
        "sessions.read",
        "tools.read",
        "violations.read",
        "workflows.read",
    }
)
_WORK: Final = frozenset(
    {
        "agents.write",
        "budgets.spend",
        "budgets.write",
        "grants.issue",
        "inference.embed",
        "inference.generate",
        "memories.write",
        "policies.evaluate",
        "runs.control",
        "runs.endorse",
        "runs.start",
        "sessions.control",
        "sessions.start",
        "tools.invoke",
        "workers.work",
        "workflows.write",
    }
)
_GOVERN: Final = frozenset(
    {
        "access.write",
        "api_keys.write",
        "budgets.limit",
        "costs.reprice",
        "models.write",
        "oidc_issuers.write",
        "policies.write",
        "security_policy.write",
        "service_accounts.write",
        "tools.write",
        "users.write",
    }
)
_OPERATE: Final = frozenset(
    {
        "audit.acknowledge",
        "audit.export",
        "audit.read",
        "identity.read",
        "prices.import",
        "prices.read",
        "signing_keys.write",
        "tenants.read",
        "tenants.write",
    }
)

#: Permissions that stand beside no RPC: one asks for them in some cases, beside its own.
ASKED_IN_SOME_CASES: Final = {"runs.endorse": "RunService/SignalRun of `plan.read`, by people only"}

#: Permissions that each role grants. A caller with several roles has the union.
ROLE_PERMISSIONS: Final[dict[Role, frozenset[str]]] = {
    Role.ADMIN: _READ | _OVERSEE | _WORK | _GOVERN,
    Role.OPERATOR: _OPERATE,
    Role.AUDITOR: _READ | _OVERSEE,
    Role.TENANT_USER: _READ | _WORK,
}


def permissions_of(roles: Iterable[Role]) -> frozenset[str]:
    """Gives the union of what the roles grant."""
    return frozenset[str]().union(*(ROLE_PERMISSIONS[role] for role in roles))
