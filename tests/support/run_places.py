"""A store of runs, the fake and the real thing, for one suite a port; and runs as their owners have them in memory."""

import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Protocol
from uuid import uuid4

import asyncpg
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy.ext.asyncio import AsyncEngine

from comitia.orchestrator.v1 import journal_pb2, session_pb2
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds, to_uuid
from services.meshkit.sql.scope import driver_scope
from services.orchestrator.engine.live_run import LiveRun
from services.orchestrator.engine.ports import Journal, RunStore
from services.orchestrator.engine.run import (
    Holdings,
    OwnedRun,
    RunCommand,
    RunWrite,
    ShardLease,
    shard_of,
)
from services.orchestrator.storage.advisory_locks import SHARD_LOCK
from services.orchestrator.storage.run_store import SqlRunStore
from tests.support.run_store import MemoryRunStore, WriteRefused
from tests.support.sessions import World, a_start, outcome_of

IDS = SystemIds()
#: What constraints say, here and there.
REFUSED = (WriteRefused, asyncpg.IntegrityConstraintViolationError)


class WrittenJournal(Journal, Protocol):
    """A journal that also answers what callers ask of sessions."""

    async def turns(
        self, tenant: TenantId, run_id: str, *, after: int, most: int
    ) -> Sequence[tuple[int, session_pb2.Turn]]:
        """See `Written.turns`."""
        ...


class Store(RunStore, Protocol):
    """A store of runs whose journal does."""

    @property
    def journal(self) -> WrittenJournal:
        """See `RunStore.journal`."""
        ...


class Place(Protocol):
    """A store, and what its time and its other users do to it."""

    @property
    def store(self) -> Store: ...

    async def expire(self, *shards: int) -> None:
        """Has the leases of shards run out."""
        ...

    async def bury(self, owner: str) -> None:
        """Has a replica not be heard of for long."""
        ...

    def under_way(self, shard: int) -> AbstractAsyncContextManager[None]:
        """Has a commit of the shard be under way while the block runs."""
        ...

    async def erase(self, run: OwnedRun) -> None:
        """Takes a run out of the store, as the erasure of its tenant does."""
        ...


class InMemory:
    """The fake."""

    def __init__(self) -> None:
        self.store = MemoryRunStore(SystemClock())

    async def expire(self, *shards: int) -> None:
        """See `Place.expire`."""
        for shard in shards:
            self.store.shards[shard].until = SystemClock().now() - timedelta(seconds=1)

    async def bury(self, owner: str) -> None:
        """See `Place.bury`."""
        self.store.replicas[owner] = SystemClock().now() - timedelta(seconds=1)

    @asynccontextmanager
    async def under_way(self, shard: int) -> AsyncGenerator[None]:
        """See `Place.under_way`."""
        with self.store.under_way([shard]):
            yield

    async def erase(self, run: OwnedRun) -> None:
        """See `Place.erase`."""
        del self.store.runs[run.run_id]


class InPostgres:
    """The real thing."""

    def __init__(self, store: SqlRunStore, maintenance: AsyncEngine, migrator: AsyncEngine) -> None:
        self.store = store
        self._maintenance = maintenance
        self._migrator = migrator

    async def _execute(self, statement: str, *values: object) -> None:
        async with driver_scope(self._maintenance, None) as scope:
            await scope.driver.execute(statement, *values)
            await scope.commit()

    async def begin(self) -> None:
        """Has nobody hold anything."""
        await self._execute("DELETE FROM engine_replica")
        await self._execute("UPDATE shard SET owner = NULL, lease_until = NULL")

    async def expire(self, *shards: int) -> None:
        """See `Place.expire`."""
        await self._execute(
            "UPDATE shard SET lease_until = now() - interval '1 second' WHERE shard = ANY($1::smallint[])", list(shards)
        )

    async def bury(self, owner: str) -> None:
        """See `Place.bury`."""
        await self._execute(
            "UPDATE engine_replica SET alive_until = now() - interval '1 second' WHERE owner = $1", owner
        )

    @asynccontextmanager
    async def under_way(self, shard: int) -> AsyncGenerator[None]:
        """See `Place.under_way`."""
        async with driver_scope(self._maintenance, None) as scope:
            await scope.driver.execute(f"SELECT pg_advisory_xact_lock_shared({SHARD_LOCK}, $1)", shard)
            yield

    async def erase(self, run: OwnedRun) -> None:
        """See `Place.erase`."""
        async with self._migrator.begin() as connection:
            await connection.exec_driver_sql("DELETE FROM run WHERE run_id = $1", (to_uuid(run.run_id, "run"),))


class Driven:
    """A run as its owner has it in memory."""

    def __init__(self, tenant: TenantId, *, shard: int | None = None, **fields: object) -> None:
        run_id = IDS.new("run")
        while shard is not None and shard_of(run_id) != shard:
            run_id = IDS.new("run")
        self.run = OwnedRun(tenant=tenant, run_id=run_id, grant_id="grant_x", shard=shard_of(run_id))
        self.live = LiveRun(self.run)
        started = a_start(**fields)  # type: ignore[arg-type]
        started.session.session_id = run_id
        self.world = World()
        self.first = self.live.begin(started, Timestamp(seconds=1))
        self.live.recorded(self.first)

    @property
    def calls(self) -> list[journal_pb2.JournalEntry]:
        return list(self.live.outstanding)

    def on(self, *commands: RunCommand) -> RunWrite:
        """Answers one call, takes commands, and gives what is to be written."""
        for intended in self.calls[:1]:
            key = intended.path, intended.call_intended.call_index
            self.live.answered(key, outcome_of(self.world, intended))
        self.live.tell(commands)
        write = self.live.advance(Timestamp(seconds=2))
        assert write is not None
        self.live.recorded(write)
        return write


async def a_run(store: RunStore, tenant: TenantId, lease: ShardLease | None, **fields: object) -> Driven:
    """Records a run; without a lease its starter does not hold its shard."""
    driven = Driven(tenant, shard=None if lease is None else lease.shard, **fields)
    created = await store.starts.create(driven.first, None, lease)
    assert (created.earlier, created.held) == (None, lease is not None)
    return driven


def an_owner(name: str | None = None) -> str:
    return f"{name or 'r' + secrets.token_hex(4)}/{uuid4()}"


async def join(store: RunStore, owner: str, held: Holdings | None = None, *, restarted: bool = False) -> Holdings:
    return await store.leases.hold(owner, () if held is None else held.leases, restarted=restarted, most=None)


def shards_of(held: Holdings) -> list[int]:
    return sorted(lease.shard for lease in held.leases)


def a_command(kind: str, by: str = "key_ada") -> RunCommand:
    return RunCommand(command_id=IDS.uuid(), kind=kind, by=by)


async def cancel(store: RunStore, lease: ShardLease, driven: Driven) -> None:
    """Ends a run."""
    command = a_command("cancel")
    await store.inbox.add_command(driven.run.tenant, driven.run.run_id, command)
    assert list(await store.journal.commit([lease], [driven.on(command)])) == []


async def journal_of(store: RunStore, run: OwnedRun) -> list[tuple[int, bytes]]:
    found = list[tuple[int, bytes]]()
    while batch := await store.journal.entries(run.tenant, run.run_id, after=found[-1][0] if found else 0):
        found += [(sequence, entry.SerializeToString(deterministic=True)) for sequence, entry in batch]
    return found


async def asked(store: Store, shard: int) -> dict[str, Sequence[RunCommand]]:
    """Gives the commands of all runs of a shard, page by page."""
    found = dict[str, Sequence[RunCommand]]()
    while page := await store.inbox.commands([shard], after=max(found, default=None)):
        assert list(page) == sorted(page)
        found.update(page)
    return found
