"""The experiment behind decision 0009: what a step costs, stage by stage, and which road leads to a worker.

One or two engines, a worker, Postgres and NATS, each a process; runs are chains of ten steps that do nothing.
Prints one JSON line per figure and the tables at the end. `BENCH_SHORT=1` takes each figure once, briefly.
Sections named as arguments (`parts`, `ladder`, `routes`, `delay`) are measured alone.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from secrets import token_hex
from typing import Any

import asyncpg
import uvloop
from ground import Ground, busy_elsewhere, ground, tree_cpu_seconds
from messages import SHARDS, Features
from model import Model
from parts import report_parts
from report import report, table
from store import check_books, create

HERE = Path(__file__).parent
SHORT = os.environ.get("BENCH_SHORT") == "1"
ROUNDS, WARM_SECONDS, SECONDS = (1, 0.3, 0.7) if SHORT else (2, 0.3, 1.1)
PARTS = set(sys.argv[1:]) or {"parts", "ladder", "routes", "delay"}
#: A measurement is taken once more if others keep more of the machine busy than this.
STRANGER_CORES = 0.3
RUNS, FEW, DELAY_MS = 500, 100, 5.0
LOADS = (1, RUNS) if SHORT else (1, FEW, RUNS, 1_000)
ROUTES = ("streams", "jetstream", "core_nats", "in_process")
if not SHORT:
    ROUTES = (*ROUTES[:2], "jetstream_unconfirmed", *ROUTES[2:])

BARE = Features()
#: Each rung adds one thing to the one above it; those with a star are tried in its place and not kept.
LADDER: list[tuple[str, dict[str, Any], bool]] = [
    ("protobuf facts", {"facts": "keywords"}, True),
    ("decider", {"decider": True}, True),
    ("sealed as today", {"sealing": "house"}, False),
    ("sealed, packed by hand", {"sealing": "packed"}, True),
    ("keys and nonces once a tick", {"sealing": "ready_keys"}, True),
    ("facts by attribute", {"facts": "attributes"}, True),
    ("RLS, 1 tenant", {"rls": True}, True),
    ("RLS, 50 tenants", {"tenants": 50}, True),
    ("fence FOR SHARE", {"fence": "share"}, False),
    ("fence FOR KEY SHARE", {"fence": "key_share"}, False),
    ("fence by advisory locks", {"fence": "advisory"}, True),
    ("partitioned journal", {"partitioned": True}, True),
    ("run row at every tick", {"run_row": "every_tick"}, False),
    ("run row at both ends", {"run_row": "ends"}, True),
    ("frames of 256", {"frame": 256}, True),
    ("leases", {"leases": True}, True),
    ("decide on arrival", {"overlap": "decide"}, False),
    ("decide and seal on arrival", {"overlap": "seal"}, True),
    ("two lanes", {"lanes": 2}, False),
]


def kept() -> Features:
    features = BARE
    for _, change, keep in LADDER:
        if keep:
            features = replace(features, **change)
    return features


CHOSEN = kept()


@dataclass(frozen=True)
class Case:
    """What to measure."""

    features: Features
    #: At once, on each engine.
    runs: int
    engines: int = 1


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What one measurement gave; processor times in microseconds per step."""

    steps_per_s: float
    stages: dict[str, float]
    cpu: dict[str, float]
    run_p99_ms: float
    step_p50_ms: float
    steps_per_tick: float
    ticks_per_s: float
    commit_ms: float
    strangers: float

    @property
    def total(self) -> float:
        return sum(self.cpu.values())


class Child:
    """A process that is spoken to in lines of JSON."""

    def __init__(self, program: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid

    def say(self, value: Any) -> None:
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()

    async def hear(self) -> Any:
        line = await asyncio.to_thread(self._process.stdout.readline)
        if not line:
            raise SystemExit(f"a child ended with {self._process.wait()}")
        return json.loads(line)

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(20)


class Mesh:
    """Everything that runs."""

    def __init__(self, stands_on: Ground) -> None:
        self._ground = stands_on
        self._password = token_hex(16)

    async def open(self, stack: AsyncExitStack) -> None:
        self._admin = await asyncpg.connect(self._ground.admin_url)
        stack.push_async_callback(self._admin.close)
        await self._admin.execute(f"CREATE ROLE engine LOGIN PASSWORD '{self._password}'")
        self._engines = [Child("engine.py"), Child("engine.py")]
        for number, engine in enumerate(self._engines):
            stack.callback(engine.close)
            engine.say({"nats": self._ground.nats_url, "declares": number == 0})
        ports = [(await engine.hear())["port"] for engine in self._engines]
        self._worker = Child("worker.py")
        stack.callback(self._worker.close)
        self._worker.say({"nats": self._ground.nats_url, "engines": [f"127.0.0.1:{port}" for port in ports]})
        await self._worker.hear()

    async def report_parts(self) -> None:
        await report_parts(self._ground, self._admin, self._password)

    async def report_lost_worker(self) -> None:
        """Kills the worker, and waits until an engine knows."""
        self._worker.kill()
        began = time.perf_counter()
        engine = self._engines[0]
        while True:
            engine.say({"ask": "sessions"})
            if (await engine.hear())["sessions"] == 0:
                break
        spent = (time.perf_counter() - began) * 1e3
        report("streams.lost_worker_noticed", spent, "ms", "lower", "kill -9; on NATS only the lapse of leases tells")

    async def measure(self, case: Case) -> Sample:
        """Runs the chains of a case."""
        features, engines = case.features, case.engines
        await create(self._admin, features)
        shards = SHARDS // engines
        pids = self._ground.servers | {"worker": self._worker.pid}
        ours = [*self._ground.servers.values(), self._worker.pid, os.getpid(), *(e.pid for e in self._engines)]
        seconds = SECONDS + WARM_SECONDS
        for number, engine in enumerate(self._engines[:engines]):
            task = {
                "features": asdict(features),
                "runs": case.runs,
                "first_shard": number * shards,
                "shards": shards,
                "url": self._ground.url("engine", self._password),
                "pids": pids,
                "warm_seconds": WARM_SECONDS,
                "seconds": SECONDS,
            }
            engine.say(task)
        # The middle of the measurement, which is not at its beginning or end for anybody.
        await asyncio.sleep(0.3)
        busy, own = busy_elsewhere(), sum(map(tree_cpu_seconds, ours))
        await asyncio.sleep(seconds - 0.5)
        strangers = (busy_elsewhere() - busy - sum(map(tree_cpu_seconds, ours)) + own) / (seconds - 0.5)
        answers = [await engine.hear() for engine in self._engines[:engines]]
        await check_books(self._admin, features)
        return sample_of(answers, max(0.0, strangers))


def sample_of(answers: list[dict[str, Any]], strangers: float) -> Sample:
    steps = sum(answer["steps"] for answer in answers)
    ticks = sum(answer["ticks"] for answer in answers)
    seconds = answers[0]["seconds"]
    per_step = 1e6 / max(steps, 1)
    stages = {stage: sum(answer["stages"][stage] for answer in answers) * per_step for stage in answers[0]["stages"]}
    engine = sum(answer["engine"] for answer in answers) * per_step
    # All engines look at the same servers.
    cpu = {name: spent * per_step for name, spent in answers[0]["cpu"].items()}
    return Sample(
        steps_per_s=steps / seconds,
        stages=stages | {"rest": engine - sum(stages.values())},
        cpu={"engine": engine} | cpu,
        run_p99_ms=max(answer["run_ms"]["p99"] for answer in answers),
        step_p50_ms=max(answer["step_ms"]["p50"] for answer in answers),
        steps_per_tick=steps / max(ticks, 1),
        ticks_per_s=ticks / seconds,
        commit_ms=max(answer["commit_ms"] for answer in answers),
        strangers=strangers,
    )


def best_of(samples: list[Sample]) -> Sample:
    """Others share the machine: the best rate and latency of all rounds, the processor times of the cheapest."""
    cheapest = min(samples, key=lambda sample: sample.total)
    return replace(
        cheapest,
        steps_per_s=max(sample.steps_per_s for sample in samples),
        run_p99_ms=min(sample.run_p99_ms for sample in samples),
        step_p50_ms=min(sample.step_p50_ms for sample in samples),
        commit_ms=min(sample.commit_ms for sample in samples),
        strangers=max(sample.strangers for sample in samples),
    )


def cells(sample: Sample) -> list[str]:
    stages = [f"{spent:.1f}" for spent in sample.stages.values()]
    return [f"{sample.steps_per_s:,.0f}", *stages, *(f"{spent:.1f}" for spent in sample.cpu.values())]


STAGES = ["decode", "decide", "seal", "commit", "dispatch", "loop, sockets"]
HEADS = ["steps/s", *STAGES, "engine", "Postgres", "NATS", "worker"]


def note_of(sample: Sample) -> str:
    cpu = ", ".join(f"{part} {spent:.1f}" for part, spent in sample.cpu.items())
    return (
        f"CPU us/step: {cpu}; {sample.steps_per_tick:.0f} steps a tick, commit {sample.commit_ms:.2f} ms; "
        f"at most {sample.strangers:.2f} cores busy with others"
    )


def report_sample(figure: str, sample: Sample, *, goals: bool = False) -> None:
    note = note_of(sample)
    goal = 20_000 if goals else None
    report(f"{figure}.steps_per_s", sample.steps_per_s, "1/s", "higher", note, goal)
    stages = ", ".join(f"{stage} {spent:.1f}" for stage, spent in sample.stages.items())
    report(f"{figure}.cpu", sample.total, "us/step", "lower", f"engine by stage: {stages}", 100 if goals else None)
    report(f"{figure}.step_p50", sample.step_p50_ms, "ms", "lower", "from one durable step of a run to its next")


class Bench:
    """Takes the samples: all cases once, then all again, so that a disturbed minute spoils no case alone."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._samples: dict[Case, list[Sample]] = {}

    async def take(self, cases: list[Case]) -> None:
        for _ in range(ROUNDS):
            for case in cases:
                sample = await self._mesh.measure(case)
                if sample.strangers > STRANGER_CORES and not SHORT:
                    self._samples.setdefault(case, []).append(sample)
                    sample = await self._mesh.measure(case)
                self._samples.setdefault(case, []).append(sample)

    def best(self, case: Case) -> Sample:
        return best_of(self._samples[case])


async def climb(bench: Bench) -> None:
    """Adds one thing at a time to the bare loop."""
    features, rungs = BARE, [("bare", Case(BARE, RUNS), Case(BARE, RUNS), True)]
    for name, change, keep in LADDER:
        tried = replace(features, **change)
        rungs.append((name, Case(tried, RUNS), Case(features, RUNS), keep))
        features = tried if keep else features
    await bench.take([case for _, case, _, _ in rungs])
    rows = []
    for name, case, below, keep in rungs:
        sample = bench.best(case)
        price = sample.total - bench.best(below).total
        report_sample(f"ladder.{name.replace(' ', '_').replace(',', '')}", sample)
        rows.append([f"+ {name}" if keep else f"… {name}", *cells(sample), f"{sample.total:.1f}", f"{price:+.1f}"])
    title = f"{RUNS} runs, streams. A row with … is tried on top of the + above it and not kept. CPU in us per step."
    table(title, ["rung", *HEADS, "all", "price"], rows)


async def compare_routes(bench: Bench) -> None:
    cases = {(route, runs): Case(replace(CHOSEN, route=route), runs) for runs in LOADS for route in ROUTES}
    await bench.take(list(cases.values()))
    rows = []
    for (route, runs), case in cases.items():
        sample = bench.best(case)
        report_sample(f"route.{route}.{runs}", sample, goals=route == "streams" and runs >= RUNS)
        latencies = [f"{sample.step_p50_ms:.2f}", f"{sample.run_p99_ms:.0f}", f"{sample.steps_per_tick:.0f}"]
        rows.append([route, str(runs), *cells(sample), f"{sample.total:.1f}", *latencies])
    heads = ["route", "runs", *HEADS, "all", "step p50 ms", "run p99 ms", "steps a tick"]
    table("Everything on. CPU in us per step.", heads, rows)


async def slow_down(bench: Bench) -> None:
    """Commits that take longer, one and two engines, beside what the model says."""
    strict = replace(CHOSEN, overlap="none")
    alone, few, many = (Case(strict, runs) for runs in (1, FEW, RUNS))
    cases = []
    for delay in (0.0, DELAY_MS):
        for overlap in ("none", "seal"):
            features = replace(CHOSEN, delay_ms=delay, overlap=overlap)
            cases += [Case(features, FEW), Case(features, FEW, 2), Case(features, RUNS), Case(features, RUNS // 2, 2)]
    await bench.take([alone, *cases])
    model = Model.of(bench.best(alone), bench.best(few), bench.best(many))
    for figure, value, unit, note in model.constants():
        report(f"model.{figure}", value, unit, "lower", note)
    rows = []
    for case in cases:
        sample, said = bench.best(case), model.steps_per_s(case)
        features = case.features
        report_sample(f"delay.{features.delay_ms:.0f}ms.{features.overlap}.{case.engines}_x_{case.runs}", sample)
        ways = [f"{features.delay_ms:.0f}", features.overlap, str(case.engines), str(case.runs)]
        off = "fitted" if case in (few, many) else f"{said / sample.steps_per_s - 1:+.0%}"
        rows.append([*ways, f"{sample.steps_per_s:,.0f}", f"{said:,.0f}", off])
    heads = ["delay ms", "overlap", "engines", "runs on each", "measured steps/s", "model", "off by"]
    table("Streams, one lane.", heads, rows)
    model.grow(50_000)


async def main() -> None:
    async with ground() as stands_on, AsyncExitStack() as stack:
        mesh = Mesh(stands_on)
        await mesh.open(stack)
        bench = Bench(mesh)
        if "parts" in PARTS:
            await mesh.report_parts()
        if "ladder" in PARTS:
            await climb(bench)
        if "routes" in PARTS:
            await compare_routes(bench)
        if "delay" in PARTS:
            await slow_down(bench)
        if "routes" in PARTS:
            await mesh.report_lost_worker()


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
