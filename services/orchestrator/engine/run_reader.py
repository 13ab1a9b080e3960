"""Reads runs for callers: what was last written of them, and what was recorded since."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from comitia.orchestrator.v1 import journal_pb2, run_pb2, session_pb2
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import TenantId
from services.orchestrator.domain.errors import RunNotFound, SessionNotFound
from services.orchestrator.engine.followed_runs import FollowedRuns
from services.orchestrator.engine.run import RunKind, RunView
from services.orchestrator.engine.session_as_run import as_run
from services.orchestrator.programs.run_view import TERMINAL_STATES, RunProjection
from services.orchestrator.programs.view import project


class Written(Protocol):
    """What the engine has written of runs."""

    async def view(self, tenant: TenantId, run_id: str) -> RunView:
        """Gives what callers see of a run as it was last written. Raises: RunNotFound."""
        ...

    async def views(
        self, tenant: TenantId, *, before: str | None, most: int, kind: RunKind | None = None, open_only: bool = False
    ) -> tuple[Sequence[RunView], bool]:
        """Gives what callers see of runs as it was last written, newest first, of those older than the run `before`.

        Returns: one at least if there is one, fewer than `most` if they are large; and whether there are more.
        """
        ...

    async def entries(
        self, tenant: TenantId, run_id: str, *, after: int = 0
    ) -> Sequence[tuple[int, journal_pb2.JournalEntry]]:
        """See `Journal.entries`."""
        ...

    async def turns(
        self, tenant: TenantId, run_id: str, *, after: int, most: int
    ) -> Sequence[tuple[int, session_pb2.Turn]]:
        """Gives recorded turns of a session after turn number `after`, in order, with their numbers."""
        ...


class RunReader:
    """Answers what callers ask of sessions, and of runs, which sessions are too."""

    def __init__(self, written: Written) -> None:
        self._written = written
        self._followed = FollowedRuns()

    async def session(self, tenant: TenantId, session_id: str) -> session_pb2.Session:
        """Gives a session as it stands. Raises: SessionNotFound: there is none, or it is a run of a workflow."""
        try:
            view = await self._written.view(tenant, session_id)
        except RunNotFound as cause:
            raise SessionNotFound(session_id) from cause
        if not isinstance(view, session_pb2.Session):
            raise SessionNotFound(session_id)
        return view

    async def sessions(
        self, tenant: TenantId, *, before: str | None, most: int
    ) -> tuple[Sequence[session_pb2.Session], bool]:
        """Gives sessions newest first, those older than the run `before`; and whether there are more."""
        found, more = await self._written.views(tenant, before=before, most=most, kind=RunKind.SESSION)
        return [view for view in found if isinstance(view, session_pb2.Session)], more

    async def turns(
        self, tenant: TenantId, session_id: str, *, after: int, most: int
    ) -> Sequence[tuple[int, session_pb2.Turn]]:
        """Gives recorded turns of a session after turn number `after`, in order, with their numbers."""
        return await self._written.turns(tenant, session_id, after=after, most=most)

    async def seen(self, tenant: TenantId, run_id: str) -> run_pb2.Run:
        """Gives a run as it was last written: whose it is, and the state it is in. Raises: RunNotFound.

        What is counted of it may be older than its state.
        """
        return as_run(await self._written.view(tenant, run_id))

    async def run(self, tenant: TenantId, run_id: str) -> run_pb2.Run:
        """Gives a run as it stands. Raises: RunNotFound."""
        view = await self._written.view(tenant, run_id)
        if isinstance(view, session_pb2.Session):
            return as_run(view)
        if view.state in TERMINAL_STATES:
            self._followed.forget(tenant, run_id)
            return view
        followed = self._followed.has(tenant, run_id)
        if not followed and not await self._written.entries(tenant, run_id, after=view.sequence):
            return view
        # What a run is doing is not all in what callers see of it, so it is followed from its first fact.
        return await self._followed.run(tenant, run_id, lambda after: self._facts(tenant, run_id, after=after))

    async def run_at(self, tenant: TenantId, run_id: str, sequence: int) -> run_pb2.Run:
        """Gives a run as it stood after a fact. Raises: RunNotFound, Invalid: it has not come so far."""
        view = await self._written.view(tenant, run_id)
        if isinstance(view, session_pb2.Session):
            run = await self._session_at(tenant, run_id, sequence)
        else:
            run = await self._projected(tenant, run_id, sequence)
        if run.sequence < sequence:
            raise Invalid("at_sequence", f"must be at most {run.sequence}, the sequence of the run's last fact")
        return run

    async def runs(
        self, tenant: TenantId, *, before: str | None, most: int, open_only: bool
    ) -> tuple[Sequence[run_pb2.Run], bool]:
        """Gives runs as they were last written, newest first, those older than the run `before`.

        Returns: fewer than `most` if they are large; and whether there are more.
        """
        found, more = await self._written.views(tenant, before=before, most=most, open_only=open_only)
        return [as_run(view) for view in found], more

    async def steps(
        self, tenant: TenantId, run_id: str, *, after: int = 0, most: int | None = None
    ) -> Sequence[run_pb2.RunStep]:
        """Gives steps of a run in the order in which they began, as they stand. Raises: RunNotFound.

        Args:
            after: so many are left out at the beginning.
        """
        await self._written.view(tenant, run_id)
        until = None if most is None else after + most
        projection = RunProjection(keep_steps=True)
        async for sequence, entry in self._facts(tenant, run_id):
            projection.take(entry, sequence)
            if until is not None and projection.have_ended(until):
                break
        return projection.steps(after, until)

    async def _projected(self, tenant: TenantId, run_id: str, until: int | None) -> run_pb2.Run:
        projection = RunProjection()
        async for sequence, entry in self._facts(tenant, run_id, until):
            projection.take(entry, sequence)
        return projection.run

    async def _session_at(self, tenant: TenantId, run_id: str, until: int) -> run_pb2.Run:
        session = session_pb2.Session()
        async for sequence, entry in self._facts(tenant, run_id, until):
            project(session, entry, sequence)
        return as_run(session)

    async def _facts(
        self, tenant: TenantId, run_id: str, until: int | None = None, *, after: int = 0
    ) -> AsyncGenerator[tuple[int, journal_pb2.JournalEntry]]:
        """Gives the facts of a run in order, from one sequence to another."""
        while batch := await self._written.entries(tenant, run_id, after=after):
            for after, entry in batch:
                if until is not None and after > until:
                    return
                yield after, entry
