"""Lays out what a tick writes as the arrays that `COMMIT_TICK` takes."""

from collections.abc import Iterator, Sequence
from uuid import UUID

from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import to_uuid
from services.orchestrator.engine.journal import JournalCodec
from services.orchestrator.engine.run import RunWrite, SealedRow, ShardLease


def tick_arrays(
    leases: Sequence[ShardLease],
    writes: Sequence[RunWrite],
    rows: Sequence[SealedRow | None],
    codec: JournalCodec,
) -> Iterator[Sequence[object]]:
    """Gives the arrays in the order of the arguments.

    Args:
        rows: of each write; None for one without facts, for commands that changed nothing.
        codec: with the keys of all these tenants loaded.
    """
    yield [lease.shard for lease in leases]
    yield [lease.epoch for lease in leases]
    ids = [write.run.uuid for write in writes]
    sealed = [(run_id, write, row) for run_id, write, row in zip(ids, writes, rows, strict=True) if row is not None]
    yield from _journal(sealed)
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
    blobs = [(write.run.tenant, run_id, blob) for run_id, write, row in sealed for blob in row.blobs]
    yield [tenant for tenant, _, _ in blobs]
    yield [run_id for _, run_id, _ in blobs]
    yield [blob.digest for _, _, blob in blobs]
    yield [blob.sequence for _, _, blob in blobs]
    yield [len(blob.content) for _, _, blob in blobs]
    # By their number, whose hash costs nothing.
    tenants, grown = dict[int, TenantId](), dict[int, int]()
    for _, write, row in sealed:
        tenant = write.run.tenant
        tenants[tenant.int] = tenant
        grown[tenant.int] = grown.get(tenant.int, 0) + row.size
    yield list(tenants.values())
    yield list(grown.values())
    told = [(write.run.tenant, sub_run_id, command) for write in writes for sub_run_id, command in write.handed_down]
    yield [tenant for tenant, _, _ in told]
    yield [to_uuid(sub_run_id, "run") for _, sub_run_id, _ in told]
    yield [command.command_id for _, _, command in told]
    yield [command.kind for _, _, command in told]
    yield [command.by for _, _, command in told]


def _journal(sealed: Sequence[tuple[UUID, RunWrite, SealedRow]]) -> Iterator[Sequence[object]]:
    yield [write.run.tenant for _, write, _ in sealed]
    yield [run_id for run_id, _, _ in sealed]
    yield [write.first_sequence for _, write, _ in sealed]
    yield [len(write.entries) for _, write, _ in sealed]
    yield [row.payload for _, _, row in sealed]
    yield [row.commitments for _, _, row in sealed]
