"""Which tools a tenant's own rules let be called: one answer for lists, searches, turns and calls."""

from dataclasses import dataclass

from services.meshkit.core.tenant import SecurityPolicy
from services.tools.domain.errors import ToolNotAllowed
from services.tools.domain.tool import Tool


@dataclass(frozen=True, slots=True)
class ToolRule:
    """What a tenant's security policy says of tools, whoever calls them."""

    #: Names of those that may be called, in every version; None for all.
    names: frozenset[str] | None = None

    @classmethod
    def of(cls, policy: SecurityPolicy) -> "ToolRule":
        """Reads the rule from the policy."""
        if policy.tools_forbidden:
            return cls(frozenset())
        return cls(policy.allowed_tools or None)

    def allows(self, tool: Tool) -> bool:
        """Tells whether the tool may be called."""
        return self.names is None or tool.name in self.names

    def check(self, tool: Tool) -> None:
        """Raises ToolNotAllowed unless the tool may be called."""
        if not self.allows(tool):
            raise ToolNotAllowed(tool.reference, by_tenant=True)
