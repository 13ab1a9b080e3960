"""Sessions of several agents."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Final, cast
from uuid import uuid4

from comitia.orchestrator.v1 import session_pb2, session_service_pb2, session_service_pb2_grpc
from comitia_sdk.connection import Connection
from comitia_sdk.enums import number_of
from comitia_sdk.nouns.estimates import preflight_of
from comitia_sdk.resume import resumed

_ENDED: Final = (
    session_pb2.SESSION_STATE_SUCCEEDED,
    session_pb2.SESSION_STATE_FAILED,
    session_pb2.SESSION_STATE_CANCELLED,
)


class AsyncSessions:
    """Sessions of several agents."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = session_service_pb2_grpc.SessionServiceStub(connection.channel)

    async def start(
        self,
        topic: str,
        *,
        agents: Sequence[str],
        mode: str = "debate",
        strategy: str = "round_robin",
        moderator: str = "",
        pool: str = "",
        max_rounds: int | None = None,
        convergence: session_pb2.ConvergencePolicy | bool = False,
        manual_advance: bool = False,
        max_cost_nano_usd: int = 0,
        metadata: Mapping[str, str] | None = None,
        model: str = "",
        preflight: str = "",
        request_id: str = "",
    ) -> session_pb2.Session:
        """Starts a session and returns at once; follow it with `watch`.

        Args:
            agents: `name` or `name@version`, in order of speech.
            mode: debate, brainstorm, consensus, dialogue, or answer, which shows the topic alone.
            strategy: round_robin, parallel, moderated, or `step:NAME` for a worker's step that says who speaks.
            moderator: `name` or `name@version` of the agent that picks who speaks, for `moderated`.
            pool: pool of the workers that have the step, for `step:NAME`; empty means `default`.
            max_rounds: 1 to 100; None means 3.
            manual_advance: True to wait for `advance` after each round.
            max_cost_nano_usd: hard limit; 0 means 1 USD. `comitia_sdk.nano_usd("0.50")` gives it from dollars.
            model: asked for every agent in place of its own.
            preflight: off, warn, reject or degrade: what is done when it may not fit its budgets; empty means what the
                operator has set.
            convergence: True to end once the agents agree, by the default thresholds; or a policy of your own.
            request_id: UUID that makes a repeat harmless; a new one when empty.
        Raises: InvalidRequest, NotFound, LimitReached.
        """
        kind, colon, step = strategy.partition(":")
        policy = session_pb2.ConvergencePolicy(enabled=convergence) if isinstance(convergence, bool) else convergence
        request = session_service_pb2.StartSessionRequest(
            topic=topic,
            mode=cast(session_pb2.SessionMode.ValueType, number_of(session_pb2.SessionMode, mode, field="mode")),
            strategy=cast(
                session_pb2.SessionStrategy.ValueType,
                number_of(session_pb2.SessionStrategy, kind, field="strategy"),
            ),
            agents=agents,
            max_rounds=max_rounds,
            convergence=policy,
            manual_advance=manual_advance,
            max_cost_nano_usd=max_cost_nano_usd,
            metadata=metadata or {},
            model=model,
            request_id=request_id or str(uuid4()),
            moderator=moderator,
            strategy_step=session_pb2.StrategyStep(name=step, pool=pool) if colon or pool else None,
            preflight=preflight_of(preflight),
        )
        return (await self._connection.call(self._stub.StartSession, request)).session

    async def get(self, session_id: str) -> session_pb2.Session:
        """Fetches a session as it stands. Raises: NotFound."""
        request = session_service_pb2.GetSessionRequest(session_id=session_id)
        return (await self._connection.call(self._stub.GetSession, request)).session

    async def list(self, *, page_size: int = 0) -> AsyncGenerator[session_pb2.Session]:
        """Gives all sessions, newest first."""
        request = session_service_pb2.ListSessionsRequest(page_size=page_size)
        async for page in self._connection.pages(self._stub.ListSessions, request):
            for session in page.sessions:
                yield session

    async def turns(self, session_id: str, *, page_size: int = 0) -> AsyncGenerator[session_pb2.Turn]:
        """Gives the recorded turns in order. Raises: NotFound."""
        request = session_service_pb2.ListTurnsRequest(session_id=session_id, page_size=page_size)
        async for page in self._connection.pages(self._stub.ListTurns, request):
            for turn in page.turns:
                yield turn

    async def watch(
        self, session_id: str, *, after_sequence: int = 0
    ) -> AsyncGenerator[session_service_pb2.WatchSessionResponse]:
        """Gives events as they happen until the session has ended; a broken stream is taken up where it broke.

        Recorded events come once each and in order. Pieces of text (`text_delta`) are live only; the turn that is
        recorded (`turn_completed`) supersedes them.
        Raises: NotFound; MeshUnavailable when the mesh does not answer for about half a minute.
        """

        def open_after(sequence: int) -> AsyncGenerator[session_service_pb2.WatchSessionResponse]:
            request = session_service_pb2.WatchSessionRequest(session_id=session_id, after_sequence=sequence)
            return self._connection.stream(self._stub.WatchSession, request)

        async def over(sequence: int) -> bool:
            session = await self.get(session_id)
            return session.state in _ENDED and session.sequence <= sequence

        following = resumed(open_after, after_sequence, recorded=_recorded, last=_last, over=over)
        async with aclosing(following) as events:
            async for event in events:
                yield event

    async def advance(self, session_id: str) -> session_pb2.Session:
        """Begins the next round of a session that waits. Raises: NotFound, FailedPrecondition."""
        request = session_service_pb2.AdvanceSessionRequest(session_id=session_id)
        return (await self._connection.call(self._stub.AdvanceSession, request)).session

    async def cancel(self, session_id: str) -> session_pb2.Session:
        """Stops a session. Raises: NotFound, FailedPrecondition."""
        request = session_service_pb2.CancelSessionRequest(session_id=session_id)
        return (await self._connection.call(self._stub.CancelSession, request)).session


def _recorded(event: session_service_pb2.WatchSessionResponse) -> bool:
    return event.WhichOneof("event") != "text_delta"


def _last(event: session_service_pb2.WatchSessionResponse) -> bool:
    return event.WhichOneof("event") == "session_ended"
