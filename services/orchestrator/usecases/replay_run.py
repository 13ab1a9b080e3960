"""Executes a run again from its journal."""

import asyncio
from typing import Final

from comitia.orchestrator.v1 import journal_pb2, record_pb2
from services.meshkit.core.identity import Caller
from services.meshkit.crypto.commitments import verifies
from services.orchestrator.engine.plans import prepare
from services.orchestrator.programs.run import Programs
from services.orchestrator.record.replaying import Rerun
from services.orchestrator.record.rows import RecordedRow
from services.orchestrator.usecases.recorded_runs import RecordedRun, RecordedRuns

#: Facts that are decided before others get a turn.
_FACTS_AT_ONCE: Final = 50


class ReplayRun:
    """Reads the journal and nothing else: no call is made, nothing is written."""

    def __init__(self, *, runs: RecordedRuns, programs: Programs) -> None:
        self._runs = runs
        self._programs = programs

    async def __call__(self, caller: Caller, run_id: str) -> record_pb2.Replay:
        """Raises: Invalid, RunNotFound, RelationMissing."""
        return await replayed(await self._runs.open(caller, run_id), self._programs)


async def replayed(run: RecordedRun, programs: Programs) -> record_pb2.Replay:
    """Executes a recorded run again. Raises: RunNotFound, RunArchived, Unavailable."""
    if run.started is not None:
        await prepare(run.started)
    rerun = Rerun(run.run_id, programs)
    async for row in run.rows():
        rerun.take_commit(row)
        await _take_facts(rerun, row)
    return rerun.finish()


async def _take_facts(rerun: Rerun, row: RecordedRow) -> None:
    if row.content is None:
        return
    for number, (entry, salt, commitment) in enumerate(row.facts):
        committed = verifies(commitment, salt, entry)
        rerun.take_fact(journal_pb2.JournalEntry.FromString(entry), committed=committed)
        if not number % _FACTS_AT_ONCE:
            await asyncio.sleep(0)
