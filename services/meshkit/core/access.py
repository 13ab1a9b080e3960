"""Relations of callers to things, as services ask for them. The client is `meshkit.guard.access_gate`."""

from typing import Protocol

from services.meshkit.core.errors import PermissionDenied
from services.meshkit.core.identity import Caller


class RelationMissing(PermissionDenied):
    """The caller's role would do, but it has not the relation that this thing asks for. Have it granted."""

    reason = "RELATION_MISSING"

    def __init__(self, relation: str, thing: str, *, missing: str = "") -> None:
        super().__init__(
            f"you need the relation {relation!r} to {thing!r}" + (f": {missing}" if missing else ""),
            relation=relation,
            object=thing,
        )


class AccessGate(Protocol):
    """Decides whether a caller has a relation to a thing. Administrators have every relation."""

    async def require(self, caller: Caller, relation: str, thing: str, *, last_known: bool = False) -> None:
        """Lets a caller pass, or not.

        Args:
            thing: `type:id`, such as `project:claims`.
            last_known: whether a yes of the last minutes will do while nobody can say; for reading only.
        Raises: RelationMissing. Unavailable: nobody can say right now.
        """
        ...

    async def allows(self, caller: Caller, relation: str, thing: str, *, last_known: bool = False) -> bool:
        """Says whether `require` would let the caller pass. Raises: Unavailable."""
        ...
