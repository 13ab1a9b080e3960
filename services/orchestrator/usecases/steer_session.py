"""Advances and cancels sessions."""

from comitia.orchestrator.v1 import session_pb2
from services.meshkit.core.identity import Caller
from services.orchestrator.domain.errors import SessionAlreadyTerminal, SessionNotWaiting
from services.orchestrator.programs.view import TERMINAL_STATES
from services.orchestrator.usecases.steer import Steering


def _name_of(state: session_pb2.SessionState.ValueType) -> str:
    return session_pb2.SessionState.Name(state).removeprefix("SESSION_STATE_")


class AdvanceSession:
    """Begins the next round of a session that waits for it."""

    def __init__(self, steer: Steering[session_pb2.Session]) -> None:
        self._steer = steer

    async def __call__(self, caller: Caller, session_id: str) -> session_pb2.Session:
        """Raises: SessionNotFound, RelationMissing, SessionNotWaiting; AnsweredBefore and its kin for a repeat."""
        return await self._steer(caller, session_id, "advance", _waits)


class CancelSession:
    """Stops a session; repeating it while the session is being cancelled changes nothing."""

    def __init__(self, steer: Steering[session_pb2.Session]) -> None:
        self._steer = steer

    async def __call__(self, caller: Caller, session_id: str) -> session_pb2.Session:
        """Raises: SessionNotFound, RelationMissing, SessionAlreadyTerminal; AnsweredBefore and its kin for a repeat."""
        return await self._steer(caller, session_id, "cancel", _goes_on)


async def _waits(session: session_pb2.Session) -> bool:
    if session.state != session_pb2.SESSION_STATE_WAITING:
        raise SessionNotWaiting(session.session_id, _name_of(session.state))
    return True


async def _goes_on(session: session_pb2.Session) -> bool:
    if session.state in TERMINAL_STATES:
        raise SessionAlreadyTerminal(session.session_id, _name_of(session.state))
    return True
