"""Measures the engine of the orchestrator: durable steps, latency, recovery, memory, growth; and its peers beside it.

Run by `make bench-engine`; `BENCH_SHORT=1` gives the same figures in a minute, without peers. Postgres (fsync on,
forced RLS) and NATS are those of `comitia up`; one or two engines and a worker that does nothing are processes of their
own, and steps travel over `WorkerService.Work`. Rates mind what else the machine does; processor time per step hardly
does, and the notes say how many cores were busy with others.
"""

import asyncio
import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import asyncpg
import psutil

from services.orchestrator.engine.run import SHARDS
from tests.bench.engine_ground import Ground, ground
from tests.bench.engine_model import CORES, Model, Sample
from tests.bench.engine_peers import Peers, measure_peers
from tests.bench.engine_seeds import seed_finished, seed_waiting

SHORT: Final = os.environ.get("BENCH_SHORT") == "1"
#: Sections named as arguments are measured alone.
SECTIONS: Final = ("steps", "alone", "chains", "fan", "memory", "recovery", "journal", "growth", "peers")
RUNS: Final = (100, 500) if SHORT else (100, 500, 1_000)
SECONDS: Final = 0.8 if SHORT else 4.0
WARM_SECONDS: Final = 0.5 if SHORT else 1.5
#: With more cores than this busy with others, rates and latencies say nothing of the engine.
STRANGER_CORES: Final = 0.5
#: Steps of a run that outlasts its measurement: some 60,000 steps in all.
STEPS_IN_ALL: Final = 60_000 if SHORT else 250_000
CHAIN: Final = 10
FANNED: Final = 2_000 if SHORT else 10_000
LONG: Final = 500 if SHORT else 10_000
IDLE: Final = 5_000 if SHORT else 100_000
FINISHED: Final = 5_000 if SHORT else 100_000
OPEN: Final = 200 if SHORT else 1_000
DELAY_SECONDS: Final = 0.005
FEW: Final = 100
GROWN: Final = 50_000


def figure(
    name: str,
    value: float,
    unit: str,
    *,
    better: str = "lower",
    goal: float | None = None,
    peers: Peers | None = None,
    note: str = "",
) -> None:
    """Prints one line of the report, as DESIGN section 5 asks for."""
    line = {
        "bench": "engine",
        "figure": name,
        "value": round(value) if value > 1000 else round(value, 2),
        "unit": unit,
        "better": better,
        "goal": goal,
        "peers": peers or {},
        "note": note,
    }
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def quantile(values: Sequence[float], part: float) -> float:
    """Gives the value below which this part of them lies; they are sorted."""
    return values[min(len(values) - 1, int(len(values) * part))] if values else 0.0


async def sampled(
    ground: Ground, engines: int, runs: int, *, delay_seconds: float = 0.0, stages: bool = False
) -> Sample:
    """Measures so many runs on each engine, in the middle of their work."""
    async with ground.engines(engines, delay_seconds=delay_seconds, worker=False) as on:
        steps = min(2_000, STEPS_IN_ALL // runs)
        for engine in on.engines:
            engine.say(do="start", runs=runs, steps=steps, shape="chain")
        for engine in on.engines:
            await engine.hear()
        on.work()
        await asyncio.sleep(WARM_SECONDS)
        for engine in on.engines:
            engine.say(do="window", seconds=SECONDS, pids=on.pids, sample=stages)
        return sample_of([await engine.hear() for engine in on.engines])


def sample_of(measured: Sequence[Mapping[str, Any]]) -> Sample:
    """Adds up what engines measured at the same time."""
    steps = sum(one["steps"] for one in measured)
    if not steps:
        raise SystemExit("nothing was done in the time that was measured; raise STEPS_IN_ALL")
    ticks, seconds, per_step = sum(one["ticks"] for one in measured), measured[0]["seconds"], 1e6 / steps
    engine = sum(one["cpu"]["engine"] for one in measured)
    # All engines looked at the same servers.
    cpu = {name: spent * per_step for name, spent in measured[0]["cpu"].items()} | {"engine": engine * per_step}
    stages = {name: spent * per_step for name, spent in measured[0]["stages"].items()}
    ours = engine + sum(spent for name, spent in measured[0]["cpu"].items() if name != "engine")
    return Sample(
        steps_per_s=steps / seconds,
        cpu=cpu,
        stages=stages,
        steps_per_tick=steps / max(ticks, 1),
        commit_ms=sum(one["commit_seconds"] for one in measured) / max(ticks, 1) * 1e3,
        gaps_ms=[gap * 1e3 for gap in measured[0]["gaps"]],
        strangers=max(0.0, (measured[0]["busy"] - ours) / seconds),
    )


async def steps_per_second(ground: Ground, peers: Peers) -> dict[int, Sample]:
    """Measures the throughput, and what a step costs."""
    samples: dict[int, Sample] = {}
    for runs in RUNS:
        samples[runs] = sample = await sampled(ground, 1, runs)
        figure(
            f"durable_steps_per_s_{runs}_runs",
            sample.steps_per_s,
            "1/s",
            better="higher",
            goal=20_000,
            peers=peers if runs == FEW else None,
            note=sample.note,
        )
        figure(f"cpu_us_per_step_{runs}_runs", sample.total, "us", goal=CORES * 1e6 / 20_000, note=sample.note)
    staged = await sampled(ground, 1, RUNS[-1], stages=True)
    for stage, spent in sorted(staged.stages.items(), key=lambda item: -item[1]):
        figure(f"stage_us_per_step_{stage}", spent, "us", note=f"of the engine's loop, {RUNS[-1]} runs, by samples")
    cheapest = min(samples.values(), key=lambda sample: sample.cpu["engine"])
    limit = 1e6 / cheapest.cpu["engine"]
    note = "its loop, on a core of its own"
    figure("limit_of_one_engine_steps_per_s", limit, "1/s", better="higher", goal=20_000, note=note)
    return samples


async def alone(ground: Ground) -> None:
    """Measures one run that has the engine for itself."""
    async with ground.engines(1) as on:
        on.engines[0].say(do="start", runs=1, steps=2_000, shape="chain")
        await on.engines[0].hear()
        await asyncio.sleep(WARM_SECONDS)
        sample = sample_of([await on.engines[0].ask("window", seconds=SECONDS, pids=on.pids)])
    gaps = sample.gaps_ms
    note = f"from commit to commit, p99 {quantile(gaps, 0.99):.1f} ms; {sample.note}"
    figure("step_p50_ms_alone", statistics.median(gaps), "ms", goal=3.0, note=note)


async def chains(ground: Ground) -> None:
    """Measures runs of ten steps from their start to their end, each followed by another."""
    async with ground.engines(1) as on:
        measured = await on.engines[0].ask(
            "keep_running", runs=500, steps=CHAIN, shape="chain", warm=WARM_SECONDS, seconds=SECONDS * 2, pids=on.pids
        )
    took, sample = measured["took"], sample_of([measured])
    note = f"p50 {quantile(took, 0.5) * 1e3:.0f} ms with the start of the run, {len(took):,} runs; {sample.note}"
    figure("chain_of_10_p99_ms_500_runs", quantile(took, 0.99) * 1e3, "ms", goal=250.0, note=note)


async def fan(ground: Ground) -> None:
    """Measures one step, then very many side by side, then one."""
    async with ground.engines(1) as on:
        await on.engines[0].ask("run", runs=1, steps=CHAIN, shape="fan")
        measured = await on.engines[0].ask("run", runs=1, steps=FANNED, shape="fan")
    note = f"1,000 at once, {FANNED / measured['seconds']:.0f} steps/s"
    figure(f"fan_out_{FANNED}_seconds", measured["seconds"], "s", goal=2.0 * FANNED / 10_000, note=note)


async def memory(ground: Ground) -> None:
    """Measures what open runs weigh: those that wait for somebody, and those whose step waits for a worker."""
    async with ground.database() as on:
        await seed_waiting(on.admin_url, runs=IDLE)
        await on.open(1)
        await asyncio.sleep(1.5)
        weight = await on.engines[0].ask("weight")
        note = f"PSS with {IDLE:,} runs that wait for a signal, {weight['runs']} of them in memory"
        figure("pss_mb_open_idle_runs", weight["pss_mb"], "MB", goal=1_000.0, note=note)
    driven = 500 if SHORT else 5_000
    async with ground.engines(1, worker=False) as on:
        before = await on.engines[0].ask("weight")
        await on.engines[0].ask("start", runs=driven, steps=CHAIN, shape="chain")
        after = await on.engines[0].ask("weight")
    each = (after["pss_mb"] - before["pss_mb"]) / driven
    note = f"{each * 1e3:.1f} KB each, from {driven:,} runs whose step waits for a worker"
    figure("mb_of_100000_runs_in_memory", each * 100_000, "MB", goal=1_000.0, note=note)


async def recovery(ground: Ground) -> None:
    """Kills an engine, and measures from the start of its process anew until every open run is driven."""
    async with ground.database() as on:
        await seed_finished(on.admin_url, runs=FINISHED)
        await on.open(1)
        await on.engines[0].ask("start", runs=OPEN, steps=CHAIN, shape="chain")
        await on.engines[0].ask("until_waiting", steps=OPEN)
        on.kill()
        loop = asyncio.get_running_loop()
        began = loop.time()
        await on.open(1)
        up = loop.time() - began
        await on.engines[0].ask("until_waiting", steps=OPEN)
        took = loop.time() - began
    note = f"{OPEN:,} open and {FINISHED:,} finished runs, kill -9; {up:.1f} s of it until the process holds its shards"
    figure("recovery_seconds", took, "s", goal=15.0, note=note)


async def journal(ground: Ground) -> None:
    """Measures the bytes of the journal along one long run."""
    async with ground.engines(1) as on:
        await on.engines[0].ask("run", runs=1, steps=LONG, shape="long")
        connection = await asyncpg.connect(on.admin_url)
        try:
            rows = await connection.fetch(
                "SELECT first_sequence, length(payload) + length(commitments) AS bytes FROM journal ORDER BY 1"
            )
        finally:
            await connection.close()
    # Without what begins and ends the run.
    sizes = [row["bytes"] for row in rows][1:-1]
    tenth = len(sizes) // 10
    first, last = statistics.mean(sizes[:tenth]), statistics.mean(sizes[-tenth:])
    note = f"last tenth of {LONG:,} steps; the first tenth takes {first:.0f}"
    figure("journal_bytes_per_step", last, "B", note=note)
    figure("journal_growth_ratio", last / first, "", goal=1.05, note="of bytes per step, last tenth over first tenth")


async def growth(ground: Ground, samples: dict[int, Sample]) -> None:
    """Compares one engine and two, with and without slow commits, with what the model says of them."""
    few = samples.get(FEW) or await sampled(ground, 1, FEW)
    many = samples.get(500) or await sampled(ground, 1, 500)
    model = Model.of(few, many)
    for name, line in model.lines.items():
        figure(f"model_{name}_us_per_step", line.step, "us", note=f"and {line.tick:.0f} us per tick")
    slow: dict[int, float] = {}
    cases = [
        *((1, FEW, 0.0), (1, 500, 0.0), (2, FEW, 0.0), (2, 500, 0.0)),
        *((1, FEW, DELAY_SECONDS), (2, FEW, DELAY_SECONDS)),
    ]
    for engines, runs, delay in cases:
        fitted = {FEW: few, 500: many}[runs] if engines == 1 and not delay else None
        sample = fitted or await sampled(ground, engines, runs, delay_seconds=delay)
        if delay:
            slow[engines] = sample.steps_per_s
        elif engines > 1:
            name = f"durable_steps_per_s_{engines}_engines_{runs}_runs_each"
            figure(name, sample.steps_per_s, "1/s", better="higher", goal=20_000, note=sample.note)
        said = model.steps_per_s(engines, runs, delay_ms=delay * 1e3, strangers=sample.strangers)
        name = f"{engines}_engines_{runs}_runs_each" + (f"_{delay * 1e3:.0f}_ms" if delay else "")
        note = f"model {said:,.0f}, measured {sample.steps_per_s:,.0f}; {sample.note}"
        figure(f"model_off_percent_{name}", abs(said / sample.steps_per_s - 1) * 100, "%", goal=15.0, note=note)
    note = f"{FEW} runs on each, 5 ms in each commit: {slow[1]:,.0f} and {slow[2]:,.0f} steps/s"
    figure("two_engines_over_one_slow_commits", slow[2] / slow[1], "x", better="higher", goal=1.8, note=note)
    for name, cores in model.cores_at(GROWN).items():
        note = f"at ticks of 250 steps; an engine has one core at most, of {SHARDS} shards"
        figure(f"model_cores_at_{GROWN}_steps_per_s_{name}", cores, "cores", note=note)


async def main() -> None:
    """Measures all sections, or those that are named as arguments."""
    asked = set(sys.argv[1:]) or set(SECTIONS)
    if unknown := asked - set(SECTIONS):
        raise SystemExit(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    psutil.cpu_times()
    async with ground() as on:
        peers: Peers = {}
        if "peers" in asked and not SHORT:
            peers = await measure_peers(on)
        samples = await steps_per_second(on, peers) if "steps" in asked else {}
        for name, section in (
            ("alone", alone),
            ("chains", chains),
            ("fan", fan),
            ("memory", memory),
            ("recovery", recovery),
            ("journal", journal),
        ):
            if name in asked:
                await section(on)
        if "growth" in asked:
            await growth(on, samples)
        busiest = max((sample.strangers for sample in samples.values()), default=0.0)
        if busiest > STRANGER_CORES:
            sys.stderr.write(
                f"others kept {busiest:.1f} of the cores busy: measure again on a quiet machine, or compare CPU alone\n"
            )


if __name__ == "__main__":
    asyncio.run(main())
