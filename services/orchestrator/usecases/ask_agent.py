"""Asks one agent and waits for its turn."""

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from comitia.orchestrator.v1 import session_pb2
from services.orchestrator.domain.errors import TurnStillMade
from services.orchestrator.engine.watch import RunWatch, ShownSession
from services.orchestrator.usecases.run_access import RunAccess
from services.orchestrator.usecases.start_session import StartSession, StartSessionCommand


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a question."""

    #: As it ended.
    session: session_pb2.Session = field(repr=False)
    #: None when the session failed or was cancelled.
    turn: session_pb2.Turn | None = field(repr=False)


class AskAgent:
    """Starts a session of one agent and one round, and follows it to its end."""

    def __init__(self, *, start_session: StartSession, watch: RunWatch, access: RunAccess) -> None:
        self._start_session = start_session
        self._watch = watch
        self._access = access

    async def __call__(self, command: StartSessionCommand, *, stopped: Callable[[], bool]) -> Answer:
        """Gives the answer, however many asked for it with one request id. The turn is made even if nobody waits.

        Args:
            stopped: true once this replica stops.
        Raises: whatever StartSession raises; RelationMissing; TurnStillMade: the replica stops.
        """
        caller = command.caller
        session = await self._start_session(command)
        turn: session_pb2.Turn | None = None
        events = self._watch.events(
            caller.principal.tenant, session.session_id, ShownSession(), after=0, stopped=stopped, begun=_nothing
        )
        async with aclosing(events):
            async for event in events:
                if event.HasField("turn_completed"):
                    turn = event.turn_completed
                elif event.HasField("session_ended"):
                    await self._access.to_read(caller, event.session_ended)
                    succeeded = event.session_ended.state == session_pb2.SESSION_STATE_SUCCEEDED
                    return Answer(event.session_ended, turn if succeeded else None)
        raise TurnStillMade(session.session_id)


async def _nothing() -> None:
    """Nobody is told that the waiting has begun."""
