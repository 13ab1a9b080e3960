"""Sessions that run one after the other while parts of the mesh die, started and followed as a patient client does."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar
from uuid import uuid4

from comitia.orchestrator.v1 import session_pb2
from comitia_sdk.aio import AsyncClient
from comitia_sdk.errors import Conflict, MeshUnavailable, RateLimited, TimedOut
from services.orchestrator.programs.view import TERMINAL_STATES
from tests.support.mesh import ProviderProcess

ROUNDS: Final = 2
AGENTS: Final = ("Ada", "Boole")
#: What the fake model says: the law has something to note, and a model with tools calls one.
ANSWER: Final = "Rivers meet, do not distribute. They argue about the sea!"
_TOOL_CALL: Final = ("call_1", "calculator", '{"expression": "6 * 7"}')
_PAUSE_SECONDS: Final = 0.1
_STRATEGIES: Final = ("round_robin", "parallel")

Result = TypeVar("Result")
#: Keeps something going until it is told to stop; then lets it end.
Lane = Callable[[asyncio.Event], Coroutine[Any, Any, None]]


async def patiently(call: Callable[[], Awaitable[Result]], *, seconds: float = 60.0) -> Result:
    """Makes a call again for as long as the mesh does not answer, or many lanes with one key ask too much.

    Or while an orchestrator that sleeps still holds the request.
    """
    async with asyncio.timeout(seconds):
        while True:
            try:
                return await call()
            except (MeshUnavailable, TimedOut, RateLimited):
                pass
            except Conflict as error:
                if error.reason != "REQUEST_IN_PROGRESS":
                    raise
            await asyncio.sleep(_PAUSE_SECONDS)


async def during(trouble: Awaitable[None], *lanes: Lane) -> None:
    """Keeps lanes going while the trouble lasts, and waits until each has ended what it began."""
    stop = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as tasks:
            for lane in lanes:
                tasks.create_task(lane(stop))
            await trouble
            stop.set()
    except* AssertionError as failures:
        raise failures.exceptions[0] from None


async def prepare(client: AsyncClient, provider: ProviderProcess) -> None:
    """Makes the agents and tells the model what to say."""
    provider.behave(default=True, text=ANSWER, tool_calls=[_TOOL_CALL], wait=0.01)
    for name in AGENTS:
        await client.agents.create(
            name, instructions="Be brief.", tools=["calculator"], max_tool_calls=1, semantic_matches=2
        )


@dataclass
class Workload:
    """Keeps some sessions going until it is told to stop; then lets the last ones end."""

    client: AsyncClient
    at_once: int = 3
    #: Longest time for one session.
    session_seconds: float = 100.0
    #: Sessions that were started, in order.
    started: list[str] = field(default_factory=list[str])
    #: Sessions that have ended.
    ended: list[session_pb2.Session] = field(default_factory=list[session_pb2.Session])

    async def during(self, trouble: Awaitable[None], *beside: Lane, least: int = 3) -> list[session_pb2.Session]:
        """Runs sessions while the trouble lasts, at least so many. Returns all of them, ended.

        Args:
            beside: what else is kept going meanwhile.
        """
        await during(trouble, *(partial(self._lane, lane, least) for lane in range(self.at_once)), *beside)
        return self.ended

    async def _lane(self, lane: int, least: int, stop: asyncio.Event) -> None:
        while not stop.is_set() or len(self.started) < least:
            self.ended.append(await self.one(strategy=_STRATEGIES[(lane + len(self.started)) % 2]))

    async def one(self, *, strategy: str = "round_robin", rounds: int = ROUNDS) -> session_pb2.Session:
        """Runs one session to its end."""
        session_id = await self.start(strategy=strategy, rounds=rounds)
        return await self.until_ended(session_id)

    async def start(
        self, *, strategy: str = "round_robin", rounds: int = ROUNDS, manual: bool = False, model: str = ""
    ) -> str:
        """Starts a session, once, however often that has to be asked for. Returns its id."""
        request_id = str(uuid4())
        session = await patiently(
            lambda: self.client.sessions.start(
                f"Where do rivers argue? {request_id}",
                agents=AGENTS,
                strategy=strategy,
                max_rounds=rounds,
                manual_advance=manual,
                model=model,
                request_id=request_id,
            )
        )
        self.started.append(session.session_id)
        return session.session_id

    async def until_ended(self, session_id: str) -> session_pb2.Session:
        """Waits for a session's end."""
        return await self._until(session_id, TERMINAL_STATES)

    async def until_state(self, session_id: str, state: session_pb2.SessionState.ValueType) -> session_pb2.Session:
        """Waits until a session is in a state."""
        return await self._until(session_id, frozenset({state}))

    async def _until(self, session_id: str, states: Collection[int]) -> session_pb2.Session:
        session = session_pb2.Session()
        end = time.monotonic() + self.session_seconds
        while session.state not in states:
            assert time.monotonic() < end, f"not there within {self.session_seconds} s: {session}"
            session = await patiently(lambda: self.client.sessions.get(session_id))
            await asyncio.sleep(_PAUSE_SECONDS)
        return session
