"""Who may do what with a session that belongs to a project.

A session belongs to the project that its metadata names under `project`; one that names none is everybody's whose role
allows it.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from comitia.orchestrator.v1 import session_pb2
from services.meshkit.core.access import AccessGate
from services.meshkit.core.identity import Caller
from services.orchestrator.domain.session import SessionSpec

PROJECT: Final = "project"
READ: Final = "viewer"
CONTROL: Final = "editor"


class SessionAccess:
    """Asks for the relations that sessions need."""

    def __init__(self, gate: AccessGate) -> None:
        self._gate = gate

    async def to_start(self, caller: Caller, spec: SessionSpec) -> SessionSpec:
        """Gives what may be started. A token that is bound to a project starts sessions of that project only.

        Raises: RelationMissing, Unavailable.
        """
        bound = caller.principal.project
        if bound is not None:
            spec = replace(spec, metadata={**spec.metadata, PROJECT: bound})
        await self._require(caller, CONTROL, spec.metadata, last_known=False)
        return spec

    async def to_control(self, caller: Caller, session: session_pb2.Session) -> None:
        """Raises: RelationMissing, Unavailable."""
        await self._require(caller, CONTROL, session.metadata, last_known=False)

    async def to_read(self, caller: Caller, session: session_pb2.Session) -> None:
        """Raises: RelationMissing, Unavailable."""
        await self._require(caller, READ, session.metadata, last_known=True)

    async def readable(self, caller: Caller, sessions: Sequence[session_pb2.Session]) -> list[session_pb2.Session]:
        """Leaves out what the caller may not read. Raises: Unavailable."""
        projects = list({session.metadata.get(PROJECT, "") for session in sessions} - {""})
        answers = await asyncio.gather(
            *(self._gate.allows(caller, READ, _name(project), last_known=True) for project in projects)
        )
        hidden = {project for project, allowed in zip(projects, answers, strict=True) if not allowed}
        return [session for session in sessions if session.metadata.get(PROJECT, "") not in hidden]

    async def _require(self, caller: Caller, relation: str, metadata: Mapping[str, str], *, last_known: bool) -> None:
        project = metadata.get(PROJECT, "")
        if project:
            await self._gate.require(caller, relation, _name(project), last_known=last_known)


def _name(project: str) -> str:
    return f"project:{project}"
