"""One engine of `tests.bench.engine` in a process of its own: real store, real sealing, real streams of workers.

Told what to do in lines of JSON, and answers in such lines. Only the callers' side is left out: runs are handed to the
engine as `StartRun` does it, without the grant and the budget that other services give.
"""

import asyncio
import gc
import json
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, Final

import psutil
import uvloop
from google.protobuf.message import Message
from sqlalchemy.ext.asyncio import AsyncEngine

from comitia.guard_table import GUARDS
from comitia.orchestrator.v1 import journal_pb2
from services.meshkit.bus.bus import bus
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import Role
from services.meshkit.core.ids import SystemIds
from services.meshkit.crypto.kek_file import KekFile
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.grpc.channel import call_metadata
from services.meshkit.process import collect_rarely
from services.meshkit.sql.data_keys import SqlDataKeys
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.errors import DatabaseBusy
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import setup_logs
from services.meshkit.testing.local_server import local_server
from services.meshkit.testing.mesh_keys import TENANT
from services.orchestrator.clients.live_events import live_events
from services.orchestrator.clients.run_events import STREAM, run_events
from services.orchestrator.engine.engine import Engine, EngineLimits
from services.orchestrator.engine.journal import JournalCodec
from services.orchestrator.engine.lane import EngineParts
from services.orchestrator.engine.ports import Outcome
from services.orchestrator.engine.run import Holdings, OwnedRun, RunWrite, ShardLease, shard_of
from services.orchestrator.engine.step_pools import StepPools
from services.orchestrator.engine.step_room import PoolLimits
from services.orchestrator.programs.view import TERMINAL_STATES
from services.orchestrator.storage.command_inbox import SqlInbox
from services.orchestrator.storage.run_finder import SqlRunFinder
from services.orchestrator.storage.run_journal import SqlJournal
from services.orchestrator.storage.run_starts import SqlStarts
from services.orchestrator.storage.shard_leases import SqlLeases
from tests.bench.engine_runs import started
from tests.support.known_tenants import KnownTenants
from tests.support.step_workers import worker_door

#: Starts at once; each takes a connection for a moment.
_STARTS_AT_ONCE: Final = 32
_BUSY_SECONDS: Final = 0.1
_SAMPLE_SECONDS: Final = 0.001
_LONGEST_SECONDS: Final = 60.0
_POOLS: Final = PoolLimits(workers=1_000, workers_of_tenant=200, waiting=500_000, waiting_of_tenant=200_000)

#: What a function of the engine belongs to, by file and name; `*` for all others of the file.
_STAGES: Final[Mapping[str, Mapping[str, str]]] = {
    "worker_servicer.py": {"*": "dispatch"},
    "worker_stream.py": {"_read": "decode", "*": "dispatch"},
    "worker_messages.py": {"*": "decode"},
    "outcomes.py": {"*": "decode"},
    "step_pools.py": {"outcomes": "decode", "_settle": "decode", "*": "dispatch"},
    "leases.py": {"*": "dispatch"},
    "calls_in_flight.py": {"_settled": "decode", "*": "dispatch"},
    "lane.py": {
        **dict.fromkeys(("decide", "_advanced"), "decide"),
        **dict.fromkeys(("_go_on", "_tell_watchers"), "dispatch"),
        **dict.fromkeys(("record", "_commit"), "commit"),
    },
    "tick_arrays.py": {"*": "seal"},
    "run.py": {"encoded": "seal"},
    "journal.py": {"*": "seal"},
    "run_journal.py": {"commit": "commit"},
    "one_trip.py": {"*": "commit"},
}
STAGES: Final = ("decode", "decide", "seal", "commit", "dispatch", "rest")


class NoCalls:
    """Implements `engine.ports.Calls`: workers make all that these runs ask for."""

    async def make(
        self, run: OwnedRun, started: journal_pb2.RunStarted, intended: journal_pb2.JournalEntry, outcome: Outcome
    ) -> Message:
        """See `Calls.make`."""
        raise AssertionError(f"{intended.path} is no step of a worker")


@dataclass(slots=True)
class Counts:
    """What was committed since the start of the process."""

    entries: int = 0
    writes: int = 0
    ticks: int = 0
    commit_seconds: float = 0.0
    #: Moments of the latest commits.
    moments: deque[float] = field(default_factory=lambda: deque[float](maxlen=20_000))


class CountingJournal(SqlJournal):
    """The journal of the mesh, which counts, and has commits take longer where that is asked for."""

    def __init__(self, app: AsyncEngine, *, delay_seconds: float, commits: AsyncEngine, codec: JournalCodec) -> None:
        super().__init__(app, commits=commits, codec=codec)
        self._delay = delay_seconds
        self.counts = Counts()
        #: Told when a run has ended.
        self.ends: dict[str, asyncio.Future[None]] = {}

    async def commit(self, leases: Sequence[ShardLease], writes: Sequence[RunWrite]) -> Collection[int]:
        """See `Journal.commit`."""
        began = time.perf_counter()
        lost = await super().commit(leases, writes)
        if self._delay:
            await asyncio.sleep(self._delay)
        now = time.perf_counter()
        counts = self.counts
        counts.ticks += 1
        counts.writes += len(writes)
        counts.commit_seconds += now - began
        counts.moments.append(now)
        for write in writes:
            counts.entries += len(write.entries)
            if write.view is not None and write.view.state in TERMINAL_STATES:
                end = self.ends.pop(write.run.run_id, None)
                if end is not None and not end.done():
                    end.set_result(None)
        return lost


class CountedLeases(SqlLeases):
    """The leases of the mesh, which knows how many are held."""

    def __init__(self, maintenance: AsyncEngine) -> None:
        super().__init__(maintenance)
        #: Shards held.
        self.held = 0

    async def hold(self, owner: str, leases: Sequence[ShardLease], *, restarted: bool, most: int | None) -> Holdings:
        """See `Leases.hold`."""
        holdings = await super().hold(owner, leases, restarted=restarted, most=most)
        self.held = len(holdings.leases)
        return holdings


class CountingStore:
    """Implements `engine.ports.RunStore` as the mesh does, and counts."""

    def __init__(
        self,
        *,
        delay_seconds: float,
        app: AsyncEngine,
        commits: AsyncEngine,
        maintenance: AsyncEngine,
        codec: JournalCodec,
    ) -> None:
        self.journal = CountingJournal(app, delay_seconds=delay_seconds, commits=commits, codec=codec)
        self.leases = CountedLeases(maintenance)
        self.starts = SqlStarts(app, journal=self.journal, codec=codec, tenants=KnownTenants())
        self.finder = SqlRunFinder(maintenance)
        self.inbox = SqlInbox(app, maintenance=maintenance, codec=codec)


class Sampler:
    """Says in which stage the processor time of the main thread goes: looks at its stack every millisecond of it."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        self._last = 0.0

    def start(self) -> None:
        """Begins to look."""
        self.spent.clear()
        self._last = time.thread_time()
        signal.signal(signal.SIGPROF, self._look)
        signal.setitimer(signal.ITIMER_PROF, _SAMPLE_SECONDS, _SAMPLE_SECONDS)

    def stop(self) -> None:
        """Looks no more."""
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _look(self, _number: int, frame: FrameType | None) -> None:
        now = time.thread_time()
        # Time of other threads brings us here, too: what counts is how far this one has come.
        self.spent[_stage_of(frame)] += now - self._last  # type: ignore[assignment]  # seconds
        self._last = now


def _stage_of(frame: FrameType | None) -> str:
    while frame is not None:
        code = frame.f_code
        stages = _STAGES.get(code.co_filename.rpartition("/")[2])
        if stages is not None:
            stage = stages.get(code.co_name) or stages.get("*")
            if stage is not None:
                return stage
        frame = frame.f_back
    return "rest"


def cpu_seconds(pid: int) -> float:
    """CPU seconds, user and system, of a process, its children, and those of them that have ended."""
    process = psutil.Process(pid)
    times = process.cpu_times()
    seconds = times.user + times.system + times.children_user + times.children_system
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = child.cpu_times()
            seconds += times.user + times.system
    return seconds


class Replica:
    """The engine, and what it is asked."""

    def __init__(self, engine: Engine, journal: CountingJournal) -> None:
        self._engine = engine
        self._journal = journal
        self._ids = SystemIds()
        self._sampler = Sampler()

    async def _run(self, steps: int, shape: str) -> float:
        """Runs one workflow from its start to its end; gives the seconds."""
        began = time.perf_counter()
        end = asyncio.get_running_loop().create_future()
        await self._start(steps, shape, end)
        await end
        return time.perf_counter() - began

    async def _start(self, steps: int, shape: str, end: asyncio.Future[None] | None = None) -> None:
        """Starts a run, again and again while the database is busy, as a client does."""
        while True:
            run_id = self._engine.new_run_id()
            if end is not None:
                self._journal.ends[run_id] = end
            run = OwnedRun(tenant=TENANT, run_id=run_id, grant_id="", shard=shard_of(run_id))
            try:
                await self._engine.start(None, run, started(run_id, steps, shape))
            except DatabaseBusy:
                self._journal.ends.pop(run_id, None)
                await asyncio.sleep(_BUSY_SECONDS)
            else:
                return

    async def start(self, runs: int, steps: int, shape: str) -> dict[str, Any]:
        """Starts runs and does not wait for their end."""
        began, turns = time.perf_counter(), asyncio.Semaphore(_STARTS_AT_ONCE)

        async def one() -> None:
            async with turns:
                await self._start(steps, shape)

        await asyncio.gather(*(one() for _ in range(runs)))
        return {"seconds": time.perf_counter() - began}

    async def run(self, runs: int, steps: int, shape: str) -> dict[str, Any]:
        """Runs workflows, all at once, and waits for them."""
        began = time.perf_counter()
        took = await asyncio.gather(*(self._run(steps, shape) for _ in range(runs)))
        return {"seconds": time.perf_counter() - began, "took": sorted(took)}

    async def keep_running(
        self, runs: int, steps: int, shape: str, warm: float, seconds: float, pids: Mapping[str, int]
    ) -> dict[str, Any]:
        """Keeps so many runs going, each followed by another, while a window is measured."""
        took: list[float] = []

        async def one() -> None:
            while True:
                took.append(await self._run(steps, shape))

        tasks = [asyncio.create_task(one()) for _ in range(runs)]
        await asyncio.sleep(warm)
        took.clear()
        measured = await self.window(seconds, pids)
        until = time.perf_counter() + _LONGEST_SECONDS
        while len(took) < runs and time.perf_counter() < until:  # noqa: ASYNC110  # a bound of patience
            await asyncio.sleep(seconds)
        measured["took"] = sorted(took)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return measured

    async def window(self, seconds: float, pids: Mapping[str, int], sample: bool = False) -> dict[str, Any]:
        """Measures what is done in so many seconds."""
        counts = self._journal.counts
        counts.moments.clear()
        before = (counts.entries, counts.writes, counts.ticks, counts.commit_seconds)
        others = {name: cpu_seconds(pid) for name, pid in pids.items()}
        busy, main = psutil.cpu_times(), time.thread_time()
        if sample:
            self._sampler.start()
        own, began = time.process_time(), time.perf_counter()
        await asyncio.sleep(seconds)
        # On a machine that others keep busy nothing may have come of so few of them.
        while counts.entries == before[0] and time.perf_counter() < began + _LONGEST_SECONDS:  # noqa: ASYNC110
            await asyncio.sleep(seconds)
        own, took = time.process_time() - own, time.perf_counter() - began
        if sample:
            self._sampler.stop()
        main = time.thread_time() - main
        cpu = {name: cpu_seconds(pid) - others[name] for name, pid in pids.items()}
        entries, writes, ticks, commit_seconds = (
            after - earlier
            for after, earlier in zip(
                (counts.entries, counts.writes, counts.ticks, counts.commit_seconds), before, strict=True
            )
        )
        moments = list(counts.moments)
        return {
            "seconds": took,
            # Every step is a call that was intended and one that was answered.
            "steps": entries / 2,
            "writes": writes,
            "ticks": ticks,
            "commit_seconds": commit_seconds,
            "cpu": {"engine": own, **cpu},
            "threads": own - main,
            "stages": dict(self._sampler.spent) if sample else {},
            "busy": _busy(psutil.cpu_times()) - _busy(busy),
            "gaps": sorted(after - earlier for earlier, after in pairwise(moments)),
        }

    async def until_waiting(self, steps: int) -> dict[str, Any]:
        """Waits until so many steps wait for a worker."""
        began = time.perf_counter()
        while _waiting_steps() < steps:  # noqa: ASYNC110  # a count that nobody announces
            await asyncio.sleep(0.01)
        return {"seconds": time.perf_counter() - began}

    async def weight(self) -> dict[str, Any]:
        """Gives the memory of the process, MB."""
        gc.collect()
        return {"pss_mb": psutil.Process().memory_full_info().pss / 1e6, "runs": self._engine.running}


def _waiting_steps() -> float:
    [metric] = metrics.QUEUE_ITEMS.labels("orchestrator.steps_waiting").collect()
    [sample] = metric.samples
    return sample.value


def _busy(times: Any) -> float:
    return float(sum(times[:8]) - times.idle - times.iowait)


async def main() -> None:
    """Builds the engine as it was told, and does what it is asked until its input ends."""
    loop = asyncio.get_running_loop()
    asked = await _hear(loop)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        clock, ids = SystemClock(), SystemIds()
        app = await enter(sql_engine(asked["app"], pool_size=8))
        maintenance = await enter(sql_engine(asked["maintenance"], pool_size=8))
        nats = await enter(bus(asked["nats"], streams=[STREAM]))
        await nats.wait_connected()
        kek = await KekFile.read(Path(asked["kek"]))
        codec = JournalCodec(KeyRing(SqlDataKeys(app), kek, clock=clock, ids=ids))
        store = CountingStore(
            delay_seconds=asked["delay_seconds"],
            app=app,
            commits=await enter(sql_engine(asked["app"], pool_size=1)),
            maintenance=maintenance,
            codec=codec,
        )
        await enter(store.starts.running())
        live = await enter(live_events(nats, clock=clock))
        events = await enter(run_events(nats, clock=clock))
        pools = StepPools(clock=clock, limits=_POOLS)
        engine = Engine(
            owner=f"{asked['name']}/{ids.uuid()}",
            parts=EngineParts(store=store, calls=NoCalls(), steps=pools, live=live, events=events, clock=clock),
            ids=ids,
            limits=EngineLimits(max_runs=100_000, end_seconds=0.0),
        )
        folder = Path(asked["folder"])
        server = await enter(
            local_server(worker_door(pools).registration, guards=GUARDS, folder=folder, name="orchestrator")
        )
        await enter(engine.running_block())
        async with asyncio.timeout(60):
            while store.leases.held < asked["shards"]:  # noqa: ASYNC110  # a count that nobody announces
                await asyncio.sleep(0.01)
        collect_rarely()
        principal = server.keys.principal(Role.TENANT_USER, life=timedelta(hours=1))
        _say({"target": server.target, "metadata": call_metadata(principal)})
        replica = Replica(engine, store.journal)
        while asked := await _hear(loop):
            _say(await getattr(replica, asked.pop("do"))(**asked))


async def _hear(loop: asyncio.AbstractEventLoop) -> dict[str, Any]:
    line = await loop.run_in_executor(None, sys.stdin.readline)
    return json.loads(line) if line else {}


def _say(answer: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    setup_logs("error")
    uvloop.run(main())
