"""Gives the signed provenance of a run that has ended."""

import asyncio
from dataclasses import dataclass
from typing import Final, Protocol

from comitia.orchestrator.v1 import journal_pb2
from services.meshkit.core.identity import Caller
from services.meshkit.core.ids import from_uuid
from services.meshkit.crypto.commitments import verifies
from services.orchestrator.domain.errors import RecordBroken, RecordDestroyed, RunNotEnded
from services.orchestrator.record.provenance import ProvenanceMaker
from services.orchestrator.record.rows import RecordedRow
from services.orchestrator.usecases.recorded_runs import RecordedRuns

#: Facts that are read before others get a turn.
_FACTS_AT_ONCE: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """A signed statement, and what it takes to check it."""

    #: Compact JWS.
    jws: str
    #: RFC 8785 JSON.
    manifest: str
    #: JSON Web Key Set.
    key_set: str


class ProvenanceSigner(Protocol):
    """Signs statements with a key of the mesh."""

    async def sign(self, caller: Caller, statement: bytes) -> tuple[str, str]:
        """Gives a statement with its signature, and the keys that check it. Raises: Unavailable."""
        ...


class ProveRun:
    """Reads the journal, checks every fact against its commitment, and has signed what it says."""

    def __init__(self, *, runs: RecordedRuns, signer: ProvenanceSigner) -> None:
        self._runs = runs
        self._signer = signer

    async def __call__(self, caller: Caller, run_id: str) -> Provenance:
        """Raises: Invalid, RunNotFound, RelationMissing, RunNotEnded, RecordDestroyed, RecordBroken, Unavailable."""
        run = await self._runs.open(caller, run_id)
        maker, following = ProvenanceMaker(), 1
        async for row in run.rows():
            if row.first_sequence != following:
                raise RecordBroken(run_id, following)
            following += len(row.commitments)
            await _take(maker, row, run_id)
        if not maker.ended:
            raise RunNotEnded(run_id)
        statement = maker.statement(tenant_id=from_uuid("tenant", run.tenant), run_id=run_id)
        jws, key_set = await self._signer.sign(caller, statement.to_json())
        return Provenance(jws=jws, manifest=maker.manifest, key_set=key_set)


async def _take(maker: ProvenanceMaker, row: RecordedRow, run_id: str) -> None:
    if row.content is None:
        raise RecordDestroyed(run_id)
    if len(row.content.entries) != len(row.commitments):
        raise RecordBroken(run_id, row.first_sequence)
    for number, (entry, salt, commitment) in enumerate(row.facts):
        if not verifies(commitment, salt, entry):
            raise RecordBroken(run_id, row.first_sequence + number)
        maker.take(journal_pb2.JournalEntry.FromString(entry), commitment=commitment)
        if not number % _FACTS_AT_ONCE:
            await asyncio.sleep(0)
