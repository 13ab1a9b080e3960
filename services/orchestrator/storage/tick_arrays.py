"""Lays out what a tick writes as the arrays that `COMMIT_TICK` takes."""

from collections.abc import Iterator, Sequence

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
    facts = [(write, row) for write, row in zip(writes, rows, strict=True) if row is not None]
    yield [write.run.uuid for write, _ in facts]
    yield [write.first_sequence for write, _ in facts]
    yield [len(write.entries) for write, _ in facts]
    yield [row.payload for _, row in facts]
    yield [row.commitments for _, row in facts]
    # Of several writes of one run only the last view counts, and an UPDATE would take any of them.
    seen = {write.run.uuid: (write, write.view) for write in writes if write.view is not None}
    yield list(seen)
    yield [int(view.state) for _, view in seen.values()]
    yield [codec.seal_view(write.run, view) for write, view in seen.values()]
    yield [write.last_sequence for write, _ in seen.values()]
    yield [write.wake_time for write, _ in seen.values()]
    turns = [(write.run, number, sequence) for write in writes if write.turns for number, sequence in write.turns]
    yield [run.tenant for run, _, _ in turns]
    yield [run.uuid for run, _, _ in turns]
    yield [number for _, number, _ in turns]
    yield [sequence for _, _, sequence in turns]
    done = [(write.run, command) for write in writes if write.commands for command in write.commands]
    yield [run.uuid for run, _ in done]
    yield [command for _, command in done]
    blobs = [(write.run, blob) for write, row in facts if row.blobs for blob in row.blobs]
    yield [run.tenant for run, _ in blobs]
    yield [run.uuid for run, _ in blobs]
    yield [blob.digest for _, blob in blobs]
    yield [blob.sequence for _, blob in blobs]
    yield [len(blob.content) for _, blob in blobs]
    # By their number, whose hash costs nothing.
    tenants, grown = dict[int, TenantId](), dict[int, int]()
    for write, row in facts:
        tenant = write.run.tenant
        tenants[tenant.int] = tenant
        grown[tenant.int] = grown.get(tenant.int, 0) + row.size
    yield list(tenants.values())
    yield list(grown.values())
    told = [
        (write.run.tenant, sub_run_id, command)
        for write in writes
        if write.handed_down
        for sub_run_id, command in write.handed_down
    ]
    yield [tenant for tenant, _, _ in told]
    yield [to_uuid(sub_run_id, "run") for _, sub_run_id, _ in told]
    yield [command.command_id for _, _, command in told]
    yield [command.kind for _, _, command in told]
    yield [command.by for _, _, command in told]
