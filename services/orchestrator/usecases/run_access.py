"""Who may do what with a run, or a session, that belongs to a project.

A run belongs to the project that its metadata names under `project`; one that names none is everybody's whose role
allows it. For a caller whose identity is bound to a project the runs of that project are all there are, whatever roles
and relations it has.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

from comitia.orchestrator.v1 import run_pb2, session_pb2
from services.meshkit.core.access import AccessGate, BoundToProject
from services.meshkit.core.identity import Caller
from services.orchestrator.domain.errors import RunNotFound, SessionNotFound

PROJECT: Final = "project"
READ: Final = "viewer"
CONTROL: Final = "editor"
#: Questions to the gateway that one list has under way.
ASKED_TOGETHER: Final = 8

Viewed = TypeVar("Viewed", run_pb2.Run, session_pb2.Session)


class RunAccess:
    """Asks for the relations that runs need."""

    def __init__(self, gate: AccessGate) -> None:
        self._gate = gate

    async def to_start(self, caller: Caller, metadata: Mapping[str, str]) -> dict[str, str]:
        """Gives the metadata of what may be started. A token that is bound to a project starts runs of that one only.

        Raises: RelationMissing, Unavailable.
        """
        bound = caller.principal.project
        labels = dict(metadata) if bound is None else {**metadata, PROJECT: bound}
        await self._require(caller, CONTROL, labels, last_known=False)
        return labels

    async def to_estimate(self, caller: Caller, project: str) -> dict[str, str]:
        """Gives the labels of a run that is only estimated: of the project that the caller's token is bound to, if any.

        Raises: RelationMissing, Unavailable.
        """
        labels = {PROJECT: caller.principal.project or project}
        await self._require(caller, READ, labels, last_known=True)
        return labels

    async def to_control(self, caller: Caller, run: run_pb2.Run | session_pb2.Session) -> None:
        """Raises: RunNotFound or SessionNotFound, RelationMissing, Unavailable."""
        _check_bound(caller, run)
        await self._require(caller, CONTROL, run.metadata, last_known=False)

    async def to_read(self, caller: Caller, run: run_pb2.Run | session_pb2.Session) -> None:
        """Raises: RunNotFound or SessionNotFound, RelationMissing, Unavailable."""
        _check_bound(caller, run)
        await self._require(caller, READ, run.metadata, last_known=True)

    async def to_work(self, caller: Caller, projects: Sequence[str], *, last_known: bool = False) -> Sequence[str]:
        """Gives the projects whose steps a worker may make: those it names, or else the one that its token is bound to.

        Args:
            projects: an empty name stands for runs of no project, which all may serve that are not bound.
            last_known: whether a yes of the last minutes will do while nobody can say.
        Raises: BoundToProject, RelationMissing, Unavailable.
        """
        bound = caller.principal.project
        wanted = projects or (bound or "",)
        if bound is not None and set(wanted) != {bound}:
            raise BoundToProject(bound)
        for project in wanted:
            await self._require(caller, CONTROL, {PROJECT: project}, last_known=last_known)
        return wanted

    async def readable(self, caller: Caller, runs: Sequence[Viewed]) -> list[Viewed]:
        """Leaves out what the caller may not read. Raises: Unavailable."""
        theirs = [run for run in runs if _is_within(caller, run)]
        projects = iter({_project_of(run) for run in theirs} - {""})
        hidden: set[str] = set()

        async def ask() -> None:
            for project in projects:
                if not await self._gate.allows(caller, READ, _name(project), last_known=True):
                    hidden.add(project)

        # A page may have as many projects as runs; the gateway is not asked about all of them at once.
        await asyncio.gather(*(ask() for _ in range(ASKED_TOGETHER)))
        return [run for run in theirs if _project_of(run) not in hidden]

    async def _require(self, caller: Caller, relation: str, metadata: Mapping[str, str], *, last_known: bool) -> None:
        project = metadata.get(PROJECT, "")
        if project:
            await self._gate.require(caller, relation, _name(project), last_known=last_known)


def _project_of(run: run_pb2.Run | session_pb2.Session) -> str:
    return run.metadata.get(PROJECT, "")


def _is_within(caller: Caller, run: run_pb2.Run | session_pb2.Session) -> bool:
    """Whether a caller who is bound to a project may know of a run; whoever is not bound may of all."""
    return caller.principal.project in (None, _project_of(run))


def _check_bound(caller: Caller, run: run_pb2.Run | session_pb2.Session) -> None:
    if _is_within(caller, run):
        return
    if isinstance(run, session_pb2.Session):
        raise SessionNotFound(run.session_id)
    raise RunNotFound(run.run_id)


def _name(project: str) -> str:
    return f"project:{project}"
