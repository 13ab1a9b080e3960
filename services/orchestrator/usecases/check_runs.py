"""Replays runs of all tenants, and says which do not follow from their journals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from comitia.orchestrator.v1 import record_pb2
from services.meshkit.core.checked import Checked
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.crypto.errors import KeyDestroyed
from services.orchestrator.domain.errors import RunArchived, RunNotFound
from services.orchestrator.programs.run import PROGRAMS, Programs
from services.orchestrator.usecases.recorded_runs import Records, recorded_run
from services.orchestrator.usecases.replay_run import replayed


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRun:
    """A run that is to be looked at."""

    tenant: TenantId
    run_id: str
    #: It has not ended.
    open: bool
    #: Of the last fact that its row knows of; the journal of an open run may be ahead of it, and never behind.
    last_sequence: int
    #: Of the last fact in its journal at the same moment; 0: there is none.
    journal_end: int


class NewestRuns(Protocol):
    """Lists runs of all tenants."""

    async def newest(self, *, most: int, archived: bool) -> Sequence[FoundRun]:
        """Gives runs whose facts are in the journal, or in the archive, newest first."""
        ...

    async def is_kept(self, run: FoundRun) -> bool:
        """Says whether its facts are to be in the journal: it was neither deleted nor archived meanwhile."""
        ...

    async def count_open(self) -> int:
        """How many have not ended."""
        ...


class CheckRuns:
    """Reads and decides; nothing is called or written."""

    def __init__(self, *, records: Records, runs: NewestRuns, programs: Programs = PROGRAMS) -> None:
        self._records = records
        self._runs = runs
        self._programs = programs

    async def __call__(self, *, most: int) -> Sequence[Checked]:
        """Looks at so many runs in the journal, and at so many in the archive. Raises: Unavailable."""
        kept = await self._runs.newest(most=most, archived=False)
        wrong = [await self._fault_of(run) for run in kept]
        archived = await self._runs.newest(most=most, archived=True)
        unreadable = [await self._fault_of_file(run) for run in archived]
        still = f", {await self._runs.count_open()} are open"
        return [
            Checked(what=f"{len(kept)} newest runs replayed{still}", faults=[one for one in wrong if one]),
            Checked(what=f"{len(archived)} archived runs read", faults=[one for one in unreadable if one]),
        ]

    async def _fault_of(self, run: FoundRun) -> str:
        """One run that nobody can replay, whatever the reason, keeps nobody from looking at the others."""
        if run.journal_end < run.last_sequence:
            return f"{run.run_id}: its journal ends at fact {run.journal_end}, and {run.last_sequence} were recorded"
        try:
            return await self._difference(run)
        except (RunNotFound, RunArchived):
            return f"{run.run_id}: its facts cannot be found" if await self._runs.is_kept(run) else ""
        except MeshError as error:
            return f"{run.run_id}: {error.message}"
        except Exception as error:  # noqa: BLE001  # a record that was changed may hold anything, and this says so
            return f"{run.run_id}: {type(error).__name__}: {error}"

    async def _difference(self, run: FoundRun) -> str:
        report = await replayed(await recorded_run(self._records, run.tenant, run.run_id), self._programs)
        # Much that follows from one fact is recorded in several commits. A run that goes on may be between two of them.
        ahead = {record_pb2.DRIFT_KIND_NOT_RECORDED} if run.open else set[int]()
        wrong = [drift for drift in report.drifts if drift.kind not in ahead]
        return f"{run.run_id} differs at fact {wrong[0].sequence}: {wrong[0].message}" if wrong else ""

    async def _fault_of_file(self, run: FoundRun) -> str:
        try:
            found = await self._records.archived(run.tenant, run.run_id)
            for part in range(found.parts if found is not None else 0):
                await self._records.archived_part(run.tenant, run.run_id, part)
        except KeyDestroyed:
            return ""
        except MeshError as error:
            return f"{run.run_id}: {error.message}"
        except Exception as error:  # noqa: BLE001  # as above
            return f"{run.run_id}: {type(error).__name__}: {error}"
        return ""
