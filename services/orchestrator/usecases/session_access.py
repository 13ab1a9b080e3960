"""Who may do what with a session that belongs to a project.

A session belongs to the project that its metadata names under `project`; one that names none is everybody's whose role
allows it. For a caller whose identity is bound to a project the sessions of that project are all there are, whatever
roles and relations it has.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from comitia.orchestrator.v1 import session_pb2
from services.meshkit.core.access import AccessGate
from services.meshkit.core.identity import Caller
from services.orchestrator.domain.errors import SessionNotFound
from services.orchestrator.domain.session import SessionSpec

PROJECT: Final = "project"
READ: Final = "viewer"
CONTROL: Final = "editor"
#: Questions to the gateway that one list has under way.
ASKED_TOGETHER: Final = 8


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
        """Raises: SessionNotFound, RelationMissing, Unavailable."""
        _check_bound(caller, session)
        await self._require(caller, CONTROL, session.metadata, last_known=False)

    async def to_read(self, caller: Caller, session: session_pb2.Session) -> None:
        """Raises: SessionNotFound, RelationMissing, Unavailable."""
        _check_bound(caller, session)
        await self._require(caller, READ, session.metadata, last_known=True)

    async def readable(self, caller: Caller, sessions: Sequence[session_pb2.Session]) -> list[session_pb2.Session]:
        """Leaves out what the caller may not read. Raises: Unavailable."""
        theirs = [session for session in sessions if _is_within(caller, session)]
        projects = iter({_project_of(session) for session in theirs} - {""})
        hidden: set[str] = set()

        async def ask() -> None:
            for project in projects:
                if not await self._gate.allows(caller, READ, _name(project), last_known=True):
                    hidden.add(project)

        # A page may have as many projects as sessions; the gateway is not asked about all of them at once.
        await asyncio.gather(*(ask() for _ in range(ASKED_TOGETHER)))
        return [session for session in theirs if _project_of(session) not in hidden]

    async def _require(self, caller: Caller, relation: str, metadata: Mapping[str, str], *, last_known: bool) -> None:
        project = metadata.get(PROJECT, "")
        if project:
            await self._gate.require(caller, relation, _name(project), last_known=last_known)


def _project_of(session: session_pb2.Session) -> str:
    return session.metadata.get(PROJECT, "")


def _is_within(caller: Caller, session: session_pb2.Session) -> bool:
    """Whether a caller who is bound to a project may know of a session; whoever is not bound may of all."""
    return caller.principal.project in (None, _project_of(session))


def _check_bound(caller: Caller, session: session_pb2.Session) -> None:
    if not _is_within(caller, session):
        raise SessionNotFound(session.session_id)


def _name(project: str) -> str:
    return f"project:{project}"
