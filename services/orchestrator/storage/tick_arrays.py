"""Lays out what a tick writes as the arrays that `COMMIT_TICK` takes."""

from collections.abc import Iterator, Sequence
from uuid import UUID

from services.meshkit.core.ids import to_uuid
from services.orchestrator.engine.journal import JournalCodec
from services.orchestrator.engine.run import RunWrite, ShardLease


def tick_arrays(
    leases: Sequence[ShardLease], writes: Sequence[RunWrite], codec: JournalCodec
) -> Iterator[Sequence[object]]:
    """Gives the arrays in the order of the arguments.

    Args:
        codec: with the keys of all these tenants loaded.
    """
    yield [lease.shard for lease in leases]
    yield [lease.epoch for lease in leases]
    ids = [to_uuid(write.run.run_id, "run") for write in writes]
    yield from _journal(ids, writes, codec)
    # Of several writes of one run only the last view counts, and an UPDATE would take any of them.
    seen = {run_id: (write, write.view) for run_id, write in zip(ids, writes, strict=True) if write.view is not None}
    yield list(seen)
    yield [int(view.state) for _, view in seen.values()]
    yield [codec.seal_view(write.run, view) for write, view in seen.values()]
    yield [write.last_sequence for write, _ in seen.values()]
    yield [write.wake_time for write, _ in seen.values()]
    turns = [
        (write.run.tenant, run_id, number, sequence)
        for run_id, write in zip(ids, writes, strict=True)
        for number, sequence in write.turns
    ]
    yield from ([turn[column] for turn in turns] for column in range(4))
    done = [(run_id, command) for run_id, write in zip(ids, writes, strict=True) for command in write.commands]
    yield [run_id for run_id, _ in done]
    yield [command for _, command in done]


def _journal(ids: Sequence[UUID], writes: Sequence[RunWrite], codec: JournalCodec) -> Iterator[Sequence[object]]:
    """A write without facts, for commands that changed nothing, has no row."""
    rows = [(run_id, write) for run_id, write in zip(ids, writes, strict=True) if write.entries]
    sealed = [codec.seal(write) for _, write in rows]
    yield [write.run.tenant for _, write in rows]
    yield [run_id for run_id, _ in rows]
    yield [write.first_sequence for _, write in rows]
    yield [len(write.entries) for _, write in rows]
    yield [payload for payload, _ in sealed]
    yield [commitments for _, commitments in sealed]
