"""Relations of callers in memory, for services that ask for them."""

from dataclasses import dataclass, field

from services.meshkit.core.access import RelationMissing
from services.meshkit.core.errors import Unavailable
from services.meshkit.core.identity import Caller, Role


@dataclass(slots=True)
class MemoryAccessGate:
    """Implements `core.access.AccessGate` for one tenant."""

    #: Subject, relation and thing.
    granted: set[tuple[str, str, str]] = field(default_factory=set[tuple[str, str, str]])
    #: Until something was written, roles alone decide.
    governed: bool = False
    away: bool = False

    def grant(self, subject: str, relation: str, thing: str) -> None:
        """Writes a relation."""
        self.governed = True
        self.granted.add((subject, relation, thing))

    async def require(self, caller: Caller, relation: str, thing: str, *, last_known: bool = False) -> None:
        """See `AccessGate.require`."""
        if not await self.allows(caller, relation, thing, last_known=last_known):
            missing = f"user:{caller.principal.subject} is not {relation} of {thing}"
            raise RelationMissing(relation, thing, missing=missing)

    async def allows(self, caller: Caller, relation: str, thing: str, *, last_known: bool = False) -> bool:
        """See `AccessGate.allows`."""
        if Role.ADMIN in caller.principal.roles:
            return True
        if self.away:
            raise Unavailable("gateway")
        return not self.governed or (caller.principal.subject, relation, thing) in self.granted
