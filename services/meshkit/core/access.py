"""Relations of callers to things, as services ask for them, and callers that are bound to one project.

The client of relations is `meshkit.guard.access_gate`.
"""

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


class BoundToProject(PermissionDenied):
    """The caller's identity is bound to one project, and the call concerns the whole tenant or another project."""

    reason = "BOUND_TO_PROJECT"

    def __init__(self, project: str) -> None:
        super().__init__(
            f"your identity is bound to the project {project!r}, and this concerns the whole tenant or another "
            "project; ask somebody who is not bound",
            project=project,
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
