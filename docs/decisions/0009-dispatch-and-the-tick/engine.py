"""The engine process: a tick takes results, decides, encodes, seals, commits in one trip, and then dispatches."""

import asyncio
import resource
import statistics
import sys
import time
from collections.abc import Coroutine, Generator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import asyncpg
import nats
import uuid_utils
import uvloop
from asyncpg.pgproto.pgproto import UUID as DriverUUID  # noqa: N811
from facts import REQUEST, SALT_BYTES, AttributeFacts, Call, Chain, KeywordFacts, Run, Sealer, decide, draw_salts
from ground import tree_cpu_seconds
from messages import STEPS, Features, Talk, pb
from routes import NOW, WORK, InProcess, OverNats, Streams, declare
from routes import field as encoded_field
from store import connect
from worker import handle

from comitia.orchestrator.v1.journal_pb2 import JournalEntry, JournalRow

LEASE_SECONDS = 30
BARE_PAYLOAD = b"e" * 120
now = time.thread_time_ns


@dataclass(slots=True, eq=False)
class Tick:
    """What one commit writes, and what may be done once it is durable."""

    dirty: list[Run] = field(default_factory=list)
    shards: set[int] = field(default_factory=set)
    tenants: list[DriverUUID] = field(default_factory=list)
    tenants_seen: set[int] = field(default_factory=set)
    runs: list[DriverUUID] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    commitments: list[bytes] = field(default_factory=list)
    started: list[Run] = field(default_factory=list)
    ended: list[Run] = field(default_factory=list)
    #: Runs with the request of their next step.
    calls: list[tuple[Run, bytes]] = field(default_factory=list)
    answers: list[Run] = field(default_factory=list)


class Timed:
    """Awaits a coroutine and adds the processor time of its own steps to a stage."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], stages: dict[str, int], stage: str) -> None:
        self._coroutine, self._stages, self._stage = coroutine, stages, stage

    def __await__(self) -> Generator[Any, Any, Any]:
        value = None
        while True:
            begun = now()
            try:
                waits_for = self._coroutine.send(value)
            except StopIteration as end:
                return end.value
            finally:
                self._stages[self._stage] += now() - begun
            value = yield waits_for


class Engine:
    """One measurement: a number of concurrent runs, kept up until told to stop."""

    def __init__(self, features: Features, route: Any, first_shard: int, shards: int) -> None:
        self.features = features
        self.route = route
        self.stages = dict.fromkeys(("decode", "decide", "seal", "commit", "dispatch"), 0)
        self.tenants = [uuid5(NAMESPACE_URL, f"tenant-{n}") for n in range(features.tenants)]
        self.driver_tenants = [DriverUUID(tenant.bytes) for tenant in self.tenants]
        self.sealer = Sealer(self.tenants)
        self.runs: dict[int, Run] = {}
        #: By lease id: run, path, and when it lapses.
        self.leases: dict[int, tuple[Run, str, float]] = {}
        self.lapses: list[tuple[float, int]] = []
        self.next_lease = 0
        self.next_run = 0
        self.stopping = False
        self._first, self._shards = first_shard, shards
        self.steps = self.ticks = self.rows = 0
        #: From sending commits to their answers.
        self.commit_seconds = 0.0
        self.run_seconds: list[float] = []
        self.step_seconds: list[float] = []

    async def open(self, url: str) -> None:
        await self.sealer.load()
        self.lanes = [Lane(self, *await connect(url)) for _ in range(self.features.lanes)]

    def begin_run(self) -> None:
        number = self.next_run
        self.next_run += 1
        made = uuid_utils.uuid7()
        run = Run(
            number=number,
            uuid=UUID(bytes=made.bytes),
            driver_uuid=DriverUUID(made.bytes),
            tenant=number % len(self.tenants),
            shard=self._first + hash(made) % self._shards,
            state=Chain(STEPS),
            began=time.perf_counter(),
        )
        self.runs[number] = run
        self.lane_of(run).start(run)

    def lane_of(self, run: Run) -> "Lane":
        return self.lanes[run.shard % len(self.lanes)]

    def receive(self, frame: bytes) -> int:
        """Takes a worker's frame; returns how many more leases the worker can hold now."""
        begun = now()
        taken = pb.WorkerFrame.FromString(frame)
        results = taken.results
        lanes = self.lanes
        only = lanes[0] if len(lanes) == 1 else None
        if self.features.leases:
            leases = self.leases
            for result in results:
                lease = leases.pop(result.lease_id, None)
                if lease is None:
                    continue  # lapsed, or a second result
                run, path, _ = lease
                if result.run_id != run.uuid.bytes or result.path != path or result.attempt_group != 1:
                    continue
                (only or self.lane_of(run)).inbox.append((run, result.response))
        else:
            for result in results:
                run = self.runs[result.lease_id]
                (only or self.lane_of(run)).inbox.append((run, result.response))
        room = taken.credits + len(results)
        self.stages["decode"] += now() - begun
        for lane in lanes:
            if lane.inbox:
                lane.arrived()
        return room

    def drop_lapsed(self) -> None:
        """Looks at the leases that are due. Answered ones are gone from the table, and leave the heap here."""
        lapses, at = self.lapses, time.monotonic()
        while lapses and (lapses[0][0] <= at or lapses[0][1] not in self.leases):
            _, lease_id = heappop(lapses)
            if lease_id in self.leases:
                raise SystemExit("a lease lapsed: the worker is stuck")

    def reset(self) -> None:
        for stage in self.stages:
            self.stages[stage] = 0
        self.steps = self.ticks = self.rows = 0
        #: From sending commits to their answers.
        self.commit_seconds = 0.0
        self.run_seconds, self.step_seconds = [], []


class Lane:
    """Some of the shards, with a connection of their own: one commit at a time."""

    def __init__(self, engine: Engine, connection: asyncpg.Connection, commit: Any) -> None:
        self.engine = engine
        self.connection = connection
        self._commit = commit
        self.inbox: list[tuple[Run, bytes]] = []
        self.tick = Tick()
        self.wake = asyncio.Event()
        self._facts = AttributeFacts() if engine.features.facts == "attributes" else KeywordFacts()
        self._house = engine.features.sealing == "house"

    def start(self, run: Run) -> None:
        """Takes on a new run; its first fact is in the next commit."""
        features, tick = self.engine.features, self.tick
        tick.started.append(run)
        if features.facts == "none":
            self._change(run)
            tick.calls.append((run, REQUEST))
        else:
            self._facts.begin(*divmod(time.time_ns(), 10**9))
            self._record(run, self._facts.started(), started=True)
        self.wake.set()

    def arrived(self) -> None:
        overlap = self.engine.features.overlap
        if overlap != "none":
            self._decide()
            if overlap == "seal" and not self._house:
                self._seal()
        self.wake.set()

    async def run(self) -> None:
        """Ticks until told to stop. It never waits for more when there is something to commit."""
        while not self.engine.stopping:
            await self.wake.wait()
            self.wake.clear()
            self._decide()
            if not self.tick.dirty and not self.tick.runs:
                continue
            if self._house:
                await Timed(self._seal_as_house(), self.engine.stages, "seal")
            else:
                self._seal()
            tick, self.tick = self.tick, Tick()
            await self._write(tick)
            self._dispatch(tick)

    def _change(self, run: Run) -> None:
        if not run.changed:
            run.changed = True
            self.tick.dirty.append(run)

    def _decide(self) -> None:
        begun = now()
        inbox, self.inbox = self.inbox, []
        tick = self.tick
        if self.engine.features.facts == "none":
            for run, response in inbox:
                self._change(run)
                run.answered += 1
                tick.answers.append(run)
                if run.answered == STEPS:
                    tick.ended.append(run)
                else:
                    run.path = f"steps/{run.answered}"
                    tick.calls.append((run, response[-100:]))
        else:
            facts = self._facts
            facts.begin(*divmod(time.time_ns(), 10**9))
            for run, response in inbox:
                tick.answers.append(run)
                self._record(run, facts.answered(run.path, response))
        self.engine.stages["decide"] += now() - begun

    def _record(self, run: Run, fact: JournalEntry, *, started: bool = False) -> None:
        """Adds a fact to a run, with all that follows from it."""
        self._change(run)
        facts, tick, entries = self._facts, self.tick, run.entries
        entries.append(fact)
        if self.engine.features.decider:
            run.state, commands = decide(run.state, fact)
            for command in commands:
                if isinstance(command, Call):
                    run.path = command.path
                    intent = facts.intended(command.path, command.request)
                    entries.append(intent)
                    run.state, _ = decide(run.state, intent)
                    tick.calls.append((run, command.request))
                else:
                    entries.append(facts.ended())
                    tick.ended.append(run)
            return
        run.answered += not started
        if run.answered == STEPS:
            entries.append(facts.ended())
            tick.ended.append(run)
            return
        request = REQUEST if started else fact.call_answered.response[-100:]
        run.path = f"steps/{run.answered}"
        entries.append(facts.intended(run.path, request))
        tick.calls.append((run, request))

    def _row(self, run: Run, entries: int, payload: bytes, commitments: bytes) -> None:
        tick = self.tick
        tick.shards.add(run.shard)
        tick.tenants_seen.add(run.tenant)
        tick.tenants.append(self.engine.driver_tenants[run.tenant])
        tick.runs.append(run.driver_uuid)
        tick.sequences.append(run.sequence)
        tick.counts.append(entries)
        tick.payloads.append(payload)
        tick.commitments.append(commitments)
        run.sequence += entries
        run.changed = False

    def _seal(self) -> None:
        begun = now()
        sealing, dirty = self.engine.features.sealing, self.tick.dirty
        if self.engine.features.facts == "none":
            for run in dirty:
                self._row(run, 2, BARE_PAYLOAD, b"")
        elif sealing == "none":
            for run in dirty:
                self._row(run, len(run.entries), JournalRow(entries=run.entries).SerializeToString(), b"")
                run.entries = []
        else:
            salts = draw_salts(sum([len(run.entries) for run in dirty]))
            at = 0
            sealer = self.engine.sealer
            seal = sealer.packed
            if sealing == "ready_keys":
                sealer.begin_tick(len(dirty))
                seal = sealer.packed_with_ready_key
            for run in dirty:
                entries = len(run.entries)
                self._row(run, entries, *seal(run, salts, at))
                at += SALT_BYTES * entries
                run.entries = []
        self.tick.dirty = []
        self.engine.stages["seal"] += now() - begun

    async def _seal_as_house(self) -> None:
        for run in self.tick.dirty:
            sealed, commitments = await self.engine.sealer.house(run)
            self._row(run, len(run.entries), sealed, commitments)
            run.entries = []
        self.tick.dirty = []

    async def _write(self, tick: Tick) -> None:
        begun = now()
        engine = self.engine
        scope = "{" + ",".join([str(engine.tenants[tenant]) for tenant in tick.tenants_seen]) + "}"
        shards = sorted(tick.shards)
        by_driver = engine.driver_tenants
        with_runs = engine.features.run_row != "none"
        started, ended = (tick.started, tick.ended) if with_runs else ([], [])
        values = (
            scope,
            shards,
            [1] * len(shards),
            tick.tenants,
            tick.runs,
            tick.sequences,
            tick.counts,
            tick.payloads,
            tick.commitments,
            [by_driver[run.tenant] for run in started],
            [run.driver_uuid for run in started],
            [run.shard for run in started],
            [run.driver_uuid for run in ended],
            [run.sequence - 1 for run in ended],
        )
        engine.stages["commit"] += now() - begun
        wall = time.perf_counter()
        lost = await Timed(self._commit.fetchval(*values), engine.stages, "commit")
        engine.commit_seconds += time.perf_counter() - wall
        if lost is not None:
            raise SystemExit(f"the shards {lost} were lost, and nobody took them")

    def _dispatch(self, tick: Tick) -> None:
        begun = now()
        engine, at = self.engine, time.perf_counter()
        engine.ticks += 1
        engine.rows += len(tick.runs)
        engine.steps += len(tick.answers)
        for run in tick.answers:
            engine.step_seconds.append(at - run.step_at)
            run.step_at = at
        for run in tick.started:
            run.step_at = at
        leased = engine.features.leases
        lapse = time.monotonic() + LEASE_SECONDS
        frames: list[bytes] = []
        lease = pb.Lease()
        for run, request in tick.calls:
            if leased:
                lease_id = engine.next_lease = engine.next_lease + 1
                engine.leases[lease_id] = (run, run.path, lapse)
                heappush(engine.lapses, (lapse, lease_id))
            else:
                lease_id = run.number
            lease.lease_id = lease_id
            lease.tenant_id = engine.tenants[run.tenant].bytes
            lease.run_id = run.uuid.bytes
            lease.path = run.path
            lease.attempt_group = 1
            lease.lease_ms = LEASE_SECONDS * 1000
            lease.request = request
            frames.append(encoded_field(1, lease.SerializeToString()))
        if frames:
            engine.route.send(frames)
        if leased:
            engine.drop_lapsed()
        for run in tick.ended:
            del engine.runs[run.number]
            engine.run_seconds.append(at - run.began)
        engine.stages["dispatch"] += now() - begun
        for _ in tick.ended:
            engine.begin_run()


def own_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Bench:
    """Keeps the doors of all routes open, and measures one loop after the other."""

    def __init__(self, where: dict[str, Any]) -> None:
        self._where = where
        self._engine: Engine | None = None

    def _receive(self, frame: bytes) -> int:
        # What comes from a measurement before this one names no lease of it.
        if self._engine is None or self._engine.stopping:
            taken = pb.WorkerFrame.FromString(frame)
            return taken.credits + len(taken.results)
        return self._engine.receive(frame)

    @property
    def sessions(self) -> int:
        """Workers that are connected by streams."""
        return self._streams.sessions

    async def open(self) -> int:
        self._client = await nats.connect(self._where["nats"])
        if self._where["declares"]:
            await declare(self._client)
        self._streams = Streams(self._receive, 64)
        return await self._streams.open()

    async def close(self) -> None:
        await self._streams.close()
        await self._client.close()

    async def _route(self, features: Features) -> Any:
        match features.route:
            case "streams":
                self._streams.frame = features.frame
                return self._streams
            case "in_process":
                return InProcess(self._receive, features.frame, handle)
            case name:
                subject = NOW if name == "core_nats" else WORK
                confirmed = name == "jetstream"
                route = OverNats(self._receive, features.frame, self._client, subject=subject, confirmed=confirmed)
                await route.open()
                return route

    async def measure(self, task: dict[str, Any]) -> dict[str, Any]:
        features = Features(**task["features"])
        route = await self._route(features)
        engine = self._engine = Engine(features, route, task["first_shard"], task["shards"])
        await engine.open(task["url"])
        lanes = [asyncio.create_task(lane.run()) for lane in engine.lanes]
        for _ in range(task["runs"]):
            engine.begin_run()
        await asyncio.wait(lanes, timeout=task["warm_seconds"], return_when=asyncio.FIRST_COMPLETED)
        pids = task["pids"]
        before = {name: tree_cpu_seconds(pid) for name, pid in pids.items()}
        engine.reset()
        begun, own = time.perf_counter(), own_cpu_seconds()
        await asyncio.wait(lanes, timeout=task["seconds"], return_when=asyncio.FIRST_COMPLETED)
        seconds, own = time.perf_counter() - begun, own_cpu_seconds() - own
        counted = {"steps": engine.steps, "ticks": engine.ticks, "rows": engine.rows, "seconds": seconds}
        counted["commit_ms"] = engine.commit_seconds / max(engine.ticks, 1) * 1e3
        stages = {stage: spent / 1e9 for stage, spent in engine.stages.items()}
        cpu = {name: tree_cpu_seconds(pid) - before[name] for name, pid in pids.items()}
        answer = counted | {
            "stages": stages,
            "engine": own,
            "cpu": cpu,
            "run_ms": quantiles(engine.run_seconds),
            "step_ms": quantiles(engine.step_seconds),
        }
        engine.stopping = True
        for lane in engine.lanes:
            lane.wake.set()
        await asyncio.gather(*lanes)
        # Frames on their way come back before the next measurement begins.
        await asyncio.sleep(0.1)
        for lane in engine.lanes:
            await lane.connection.close()
        route.waiting.clear()
        if route is not self._streams:
            await route.close()
        return answer


def quantiles(seconds: list[float]) -> dict[str, float]:
    if len(seconds) < 2:
        return {"p50": float("inf"), "p99": float("inf")}
    cuts = statistics.quantiles(seconds, n=100)
    return {"p50": cuts[49] * 1e3, "p99": cuts[98] * 1e3}


async def main() -> None:
    talk = Talk()
    await talk.open()
    bench = Bench(await talk.hear())
    talk.say({"port": await bench.open()})
    while (task := await talk.hear()) is not None:
        talk.say({"sessions": bench.sessions} if "ask" in task else await bench.measure(task))
    await bench.close()


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
