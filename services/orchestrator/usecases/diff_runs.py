"""Compares two runs from their journals."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from comitia.orchestrator.v1 import journal_pb2, record_pb2
from services.meshkit.core.errors import Invalid, MeshError
from services.meshkit.core.identity import Caller
from services.orchestrator.domain.errors import RecordDestroyed
from services.orchestrator.record.comparing import Comparison, SeenRun, Vector
from services.orchestrator.usecases.recorded_runs import RecordedRun, RecordedRuns

#: Facts, or steps, that are looked at before others get a turn.
_AT_ONCE: Final = 50


class Embedder(Protocol):
    """Embeds texts for a caller."""

    async def vectors(
        self, caller: Caller, texts: Sequence[str], *, of_run: journal_pb2.RunStarted
    ) -> Sequence[Vector]:
        """Gives a vector for each text, in order, at the caller's cost.

        Args:
            of_run: whose texts they are: its project is charged, and its region binds.
        Raises: MeshError: refused, or no answer.
        """
        ...


class DiffRuns:
    """Reads two journals; the embedder is asked only when the caller wants it."""

    def __init__(self, *, runs: RecordedRuns, embedder: Embedder) -> None:
        self._runs = runs
        self._embedder = embedder

    async def __call__(
        self, caller: Caller, run_id: str, other_run_id: str, *, by_meaning: bool
    ) -> record_pb2.RunDifference:
        """Raises: Invalid, RunNotFound, RelationMissing, RecordDestroyed."""
        if run_id == other_run_id:
            raise Invalid("other_run_id", "must name another run")
        first = await self._runs.open(caller, run_id)
        second = await self._runs.open(caller, other_run_id, field="other_run_id")
        one, other = await _seen(first), await _seen(second)
        comparison = Comparison(one, other)
        for number, _ in enumerate(comparison.compared()):
            if not number % _AT_ONCE:
                await asyncio.sleep(0)
        left_out = ""
        vectors = {**one.vectors, **other.vectors}
        if by_meaning:
            try:
                vectors |= await self._asked(caller, comparison, vectors, of_run=one.started)
            except MeshError as error:
                left_out = f"{error.reason}: {error.message}"
        comparison.compare_meanings(vectors)
        return comparison.finish(meaning_left_out=left_out)

    async def _asked(
        self,
        caller: Caller,
        comparison: Comparison,
        known: Mapping[str, Vector],
        *,
        of_run: journal_pb2.RunStarted,
    ) -> Mapping[str, Vector]:
        """Embeds the texts that differ, all of them where one is not known: only one model's vectors compare."""
        pairs = [(before, after) for _, before, after in comparison.texts() if before != after]
        unknown = [pair for pair in pairs if any(text not in known for text in pair)]
        texts = [text for text in dict.fromkeys(text for pair in unknown for text in pair) if text.strip()]
        if not texts:
            return {}
        found = await self._embedder.vectors(caller, texts, of_run=of_run)
        return dict(zip(texts, found, strict=True))


async def _seen(run: RecordedRun) -> SeenRun:
    if run.started is None:
        raise RecordDestroyed(run.run_id)
    seen = SeenRun()
    number = 0
    async for entry in run.entries():
        number += 1
        seen.take(entry)
        if not number % _AT_ONCE:
            await asyncio.sleep(0)
    return seen
