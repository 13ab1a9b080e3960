"""Puts together what keeps memories: rows, read and written many at a time, and what is left to do about them."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from services.memory.storage.embed_work import SqlEmbedWork
from services.memory.storage.memory_reader import SqlMemoryReader
from services.memory.storage.memory_writer import SqlMemoryWriter
from services.memory.storage.placement_work import SqlPlacementWork
from services.memory.storage.sealed_rows import SealedRows
from services.memory.transport.convert import ProtoPayload
from services.memory.wiring.ground import Ground


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """What reads and writes rows."""

    reader: SqlMemoryReader
    writer: SqlMemoryWriter
    embed_work: SqlEmbedWork
    placement_work: SqlPlacementWork


@asynccontextmanager
async def keeping(on: Ground) -> AsyncGenerator[Keeping]:
    """Opens it; leaving the block commits what waits."""
    settings = on.settings
    rows = SealedRows(on.sealed.keys, ProtoPayload())
    reader = SqlMemoryReader(on.app, rows)
    writer = SqlMemoryWriter(
        on.app,
        rows,
        tenants=on.guard.feed,
        max_items=settings.remember_batch_items,
        max_waiting=settings.remember_queue_items,
    )
    async with reader.rings, writer.group:
        yield Keeping(
            reader=reader,
            writer=writer,
            embed_work=SqlEmbedWork(on.app, rows, lease=timedelta(seconds=settings.embed_lease_seconds)),
            placement_work=SqlPlacementWork(on.maintenance, rows),
        )
