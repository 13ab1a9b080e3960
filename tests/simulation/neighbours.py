"""Whoever the engines talk to but workers: services that are called, and the bus."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Generic, TypeVar

from google.protobuf.message import Message

from comitia.orchestrator.v1 import journal_pb2, session_service_pb2
from services.meshkit.core.errors import Precondition, Unavailable
from services.meshkit.core.identity import TenantId
from services.orchestrator.engine.ports import Outcome
from services.orchestrator.engine.run import OwnedRun
from services.orchestrator.engine.run_calls import CallKey
from tests.simulation.judge import Judge
from tests.simulation.loop import Process, SimulatedLoop, here
from tests.simulation.workload import a_sub_run
from tests.support.sessions import World

T = TypeVar("T")
Trace = Callable[[str], None]


@dataclass(slots=True)
class Manners:
    """How neighbours behave. Changed while a simulation runs."""

    #: How often a call fails, and how often it takes long, 0 to 1.
    calls_fail: float = 0.0
    calls_drag: float = 0.0
    #: How often a worker does something else than to answer once and soon.
    workers_err: float = 0.0
    #: How often a worker forgets, or lets go of, a step that it is soon asked about, even when all else goes well.
    workers_forget: float = 0.0
    #: How often the bus loses something.
    bus_loses: float = 0.0


class FarCalls:
    """Implements `engine.ports.Calls`."""

    def __init__(self, *, judge: Judge, loop: SimulatedLoop, dice: Random, manners: Manners, trace: Trace) -> None:
        self._judge = judge
        self._loop = loop
        self._dice = dice
        self._manners = manners
        self._trace = trace
        self._world = World()

    async def make(
        self, run: OwnedRun, started: journal_pb2.RunStarted, intended: journal_pb2.JournalEntry, outcome: Outcome
    ) -> Message:
        """See `Calls.make`."""
        key = intended.path, intended.call_intended.call_index
        self._judge.calls(run, intended)
        self._trace(f"{here().name} calls {run.run_id[-6:]} {key}")
        with outcome.asking():
            return await self._answer(run, key, intended, outcome)

    async def _answer(
        self, run: OwnedRun, key: CallKey, intended: journal_pb2.JournalEntry, outcome: Outcome
    ) -> Message:
        dice, manners = self._dice, self._manners
        await asyncio.sleep(0.001 + 1.5 * dice.random() ** 3)
        if dice.random() < manners.calls_drag:
            if dice.random() < 0.5:
                outcome.parked(intended.path, "BUDGET_EXHAUSTED", "there is no money; raise the limit")
            await outcome.delta(intended.path, "well,", restart=True)
            await asyncio.sleep(10.0 * dice.random())
        if dice.random() < manners.calls_fail:
            raise Unavailable("nobody is there") if dice.random() < 0.7 else Precondition("not like this")
        if dice.random() < manners.calls_fail / 10:
            raise ValueError("a fault of ours")
        if intended.call_intended.kind == journal_pb2.CALL_KIND_RUN:
            return a_sub_run(intended, run.run_id)
        answer = self._world.answer(intended)
        self._judge.gives(run.run_id, key, answer.SerializeToString(deterministic=True))
        await asyncio.sleep(0.001 + 0.2 * dice.random() ** 2)
        return answer


class Bus:
    """Brings news to whoever listens, late or never."""

    def __init__(self, *, judge: Judge, loop: SimulatedLoop, dice: Random, manners: Manners) -> None:
        self._judge = judge
        self._loop = loop
        self._dice = dice
        self._manners = manners
        self._watchers: defaultdict[
            str, list[tuple[Process, asyncio.Queue[session_service_pb2.WatchSessionResponse]]]
        ] = defaultdict(list)
        self._owners: list[tuple[Process, asyncio.Queue[str]]] = []

    def is_watched(self, tenant: TenantId, run_id: str, sequence: int) -> bool:
        """See `LiveEvents.is_watched`."""
        return True

    async def publish(self, tenant: TenantId, run_id: str, event: session_service_pb2.WatchSessionResponse) -> None:
        """See `LiveEvents.publish`."""
        self._judge.news(run_id, event.sequence)
        for process, queue in self._watchers.get(run_id, ()):
            self._bring(process, queue, event)
        await asyncio.sleep(0)

    @asynccontextmanager
    async def watch(
        self, tenant: TenantId, run_id: str
    ) -> AsyncGenerator[AsyncIterator[session_service_pb2.WatchSessionResponse]]:
        """See `LiveEvents.watch`."""
        place = here(), asyncio.Queue[session_service_pb2.WatchSessionResponse]()
        self._watchers[run_id].append(place)
        try:
            yield _Arrivals(place[1])
        finally:
            self._watchers[run_id].remove(place)

    async def wake_owner(self, run_id: str) -> None:
        """See `LiveEvents.wake_owner`."""
        for process, queue in self._owners:
            self._bring(process, queue, run_id)
        await asyncio.sleep(0)

    @asynccontextmanager
    async def wakes(self) -> AsyncGenerator[AsyncIterator[str]]:
        """See `LiveEvents.wakes`."""
        place = here(), asyncio.Queue[str]()
        self._owners.append(place)
        try:
            yield _Arrivals(place[1])
        finally:
            self._owners.remove(place)

    def _bring(self, process: Process, queue: "asyncio.Queue[T]", what: T) -> None:
        times = 1 + (self._dice.random() < 0.1)
        if self._dice.random() >= self._manners.bus_loses:
            for _ in range(times):
                delay = 0.0005 + 0.05 * self._dice.random() ** 3
                self._loop.call_later(delay, queue.put_nowait, what, context=process.context)


class _Arrivals(Generic[T]):
    def __init__(self, queue: "asyncio.Queue[T]") -> None:
        self._queue = queue

    def __aiter__(self) -> "_Arrivals[T]":
        return self

    async def __anext__(self) -> T:
        return await self._queue.get()
