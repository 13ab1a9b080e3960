"""Advances and cancels sessions: checks the state, and leaves a command for the run's owner."""

from comitia.orchestrator.v1 import session_pb2
from services.meshkit.core.identity import Caller
from services.orchestrator.domain.errors import SessionAlreadyTerminal, SessionNotWaiting
from services.orchestrator.programs.view import TERMINAL_STATES
from services.orchestrator.usecases.ports import Runs, SessionViews
from services.orchestrator.usecases.run_access import RunAccess


def _name_of(state: session_pb2.SessionState.ValueType) -> str:
    return session_pb2.SessionState.Name(state).removeprefix("SESSION_STATE_")


class AdvanceSession:
    """Begins the next round of a session that waits for it."""

    def __init__(self, *, runs: Runs, views: SessionViews, access: RunAccess) -> None:
        self._runs = runs
        self._access = access
        self._views = views

    async def __call__(self, caller: Caller, session_id: str) -> session_pb2.Session:
        """Raises: SessionNotFound, RelationMissing, SessionNotWaiting; AnsweredBefore and its kin for a repeat."""
        tenant = caller.principal.tenant
        session = await self._views.view(tenant, session_id)
        await self._access.to_control(caller, session)
        # Asked before the state is judged: the command of the first request may have changed it.
        await self._views.answered_before(tenant, session_id)
        if session.state != session_pb2.SESSION_STATE_WAITING:
            raise SessionNotWaiting(session_id, _name_of(session.state))
        await self._runs.command(caller.principal, session_id, "advance")
        answer = await self._views.view(tenant, session_id)
        await self._views.keep_answer(tenant, answer)
        return answer


class CancelSession:
    """Stops a session; repeating it while the session is being cancelled changes nothing."""

    def __init__(self, *, runs: Runs, views: SessionViews, access: RunAccess) -> None:
        self._runs = runs
        self._access = access
        self._views = views

    async def __call__(self, caller: Caller, session_id: str) -> session_pb2.Session:
        """Raises: SessionNotFound, RelationMissing, SessionAlreadyTerminal; AnsweredBefore and its kin for a repeat."""
        tenant = caller.principal.tenant
        session = await self._views.view(tenant, session_id)
        await self._access.to_control(caller, session)
        # Asked before the state is judged: the command of the first request may have changed it.
        await self._views.answered_before(tenant, session_id)
        if session.state in TERMINAL_STATES:
            raise SessionAlreadyTerminal(session_id, _name_of(session.state))
        await self._runs.command(caller.principal, session_id, "cancel")
        answer = await self._views.view(tenant, session_id)
        await self._views.keep_answer(tenant, answer)
        return answer
