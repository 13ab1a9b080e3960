"""Who may do what with the memories of a project.

The mesh speaks for runs, and says which project is theirs. Everybody else needs a relation to the project; memories of
no project are everybody's whose role allows it.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from services.memory.domain.memory import Memory
from services.meshkit.core.access import AccessGate
from services.meshkit.core.identity import Caller

_READ: Final = "viewer"
_WRITE: Final = "editor"
#: Questions to the gateway that one list has under way.
_ASKED_TOGETHER: Final = 8


class ProjectAccess:
    """Asks for the relations that memories need."""

    def __init__(self, gate: AccessGate) -> None:
        self._gate = gate

    async def to_read(self, caller: Caller, project: str) -> None:
        """Raises: RelationMissing, Unavailable."""
        await self._require(caller, _READ, project, last_known=True)

    async def to_write(self, caller: Caller, project: str) -> None:
        """Raises: RelationMissing, Unavailable."""
        await self._require(caller, _WRITE, project, last_known=False)

    async def readable(self, caller: Caller, memories: Sequence[Memory]) -> list[Memory]:
        """Leaves out what the caller may not read. Raises: Unavailable."""
        projects = iter({memory.project for memory in memories} - {""})
        hidden: set[str] = set()

        async def ask() -> None:
            for project in projects:
                if not await self._gate.allows(caller, _READ, f"project:{project}", last_known=True):
                    hidden.add(project)

        # A page may have as many projects as memories; the gateway is not asked about all of them at once.
        await asyncio.gather(*(ask() for _ in range(_ASKED_TOGETHER)))
        return [memory for memory in memories if memory.project not in hidden]

    async def _require(self, caller: Caller, relation: str, project: str, *, last_known: bool) -> None:
        if project and caller.peer is None:
            await self._gate.require(caller, relation, f"project:{project}", last_known=last_known)
