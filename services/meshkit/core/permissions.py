"""What each role may do. The permission that an RPC asks for stands beside it in the proto."""

from collections.abc import Iterable
from typing import Final

from services.meshkit.core.identity import Role

_READ: Final = frozenset(
    {
        "agents.read",
        "api_keys.read",
        "budgets.read",
        "costs.read",
        "identity.read",
        "memories.read",
        "models.read",
        "policies.read",
        "prices.read",
        "sessions.read",
        "tools.read",
        "violations.read",
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
        "sessions.control",
        "sessions.start",
        "tools.invoke",
    }
)
_GOVERN: Final = frozenset({"api_keys.write", "budgets.limit", "policies.write", "tools.write"})
_OPERATE: Final = frozenset({"identity.read", "tenants.read", "tenants.write"})

#: Permissions that each role grants. A caller with several roles has the union.
ROLE_PERMISSIONS: Final[dict[Role, frozenset[str]]] = {
    Role.ADMIN: _READ | _WORK | _GOVERN,
    Role.OPERATOR: _OPERATE,
    Role.AUDITOR: _READ,
    Role.TENANT_USER: (_READ - {"api_keys.read"}) | _WORK,
}


def permissions_of(roles: Iterable[Role]) -> frozenset[str]:
    """Gives the union of what the roles grant."""
    return frozenset[str]().union(*(ROLE_PERMISSIONS[role] for role in roles))
