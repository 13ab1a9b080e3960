"""Postgres of the experiment: one database per service, forced RLS, every write a set-based statement.

One statement serves one row and many, so that a unary commit and a frame's commit differ in nothing but size.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

POOL = 8
#: Largest group committed at once, and the most that may wait.
GROUP_BOUND = 500
WAITING_BOUND = 10_000

TABLES: dict[str, dict[str, str]] = {
    "gateway": {},
    "policy": {},
    "orchestrator": {
        "journal": "run uuid, seq bigint generated always as identity, kind text, data bytea, primary key (run, seq)"
    },
    "inference": {"answer": "call_id text primary key, hold uuid, data bytea, settled boolean not null default false"},
    "memory": {"memory": "id bigint generated always as identity primary key, run uuid, data text"},
    "tools": {"effect": "call_id text primary key, arguments text, outcome text"},
    "cost": {
        "budget": "id uuid primary key, bound bigint, spent bigint not null default 0, held bigint not null default 0,"
        " constraint no_overspend check (spent + held <= bound)",
        "hold": "id uuid primary key, nodes uuid[], bound bigint, actual bigint, state text",
    },
}
INDEXES = {"memory": "create index on memory (run, id desc)"}

#: Kind of write -> statement over columns. Each kind that a group holds runs once, in this order, in one transaction.
WRITES = {
    "journal": "insert into journal (tenant, run, kind, data)"
    " select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::bytea[])",
    "answer": "insert into answer (tenant, call_id, hold, data)"
    " select * from unnest($1::uuid[], $2::text[], $3::uuid[], $4::bytea[])",
    "memory": "insert into memory (tenant, run, data) select * from unnest($1::uuid[], $2::uuid[], $3::text[])",
    "effect": "insert into effect (tenant, call_id, arguments)"
    " select * from unnest($1::uuid[], $2::text[], $3::text[])",
    "outcome": "update effect e set outcome = d.outcome from unnest($1::uuid[], $2::text[], $3::text[])"
    " as d (tenant, call_id, outcome) where e.call_id = d.call_id",
    "reserve": """
        with asked as (
            select * from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::uuid[], $6::bigint[], $7::text[])
                as a (tenant, id, n1, n2, n3, bound, state)),
        per_node as (
            select node, sum(bound)::bigint as bound from asked, unnest(array[n1, n2, n3]) as node group by node),
        locked as (
            select id from budget where id in (select node from per_node) order by id for update),
        held as (
            update budget b set held = b.held + p.bound
            from per_node p join locked l on l.id = p.node where b.id = p.node)
        insert into hold (tenant, id, nodes, bound, state)
        select tenant, id, array[n1, n2, n3], bound, state from asked""",
    "mark": "update hold h set state = 'dispatched' from unnest($1::uuid[], $2::uuid[]) as d (tenant, id)"
    " where h.id = d.id and h.state = 'reserved'",
    "settle": """
        with done as (
            select * from unnest($1::uuid[], $2::uuid[], $3::bigint[]) as d (tenant, id, actual)),
        closed as (
            update hold h set state = 'settled', actual = d.actual from done d
            where h.id = d.id and h.state = 'dispatched' returning h.nodes, h.bound, d.actual),
        per_node as (
            select node, sum(bound)::bigint as bound, sum(actual)::bigint as actual
            from closed, unnest(nodes) as node group by node),
        locked as (
            select id from budget where id in (select node from per_node) order by id for update)
        update budget b set held = b.held - p.bound, spent = b.spent + p.actual
        from per_node p join locked l on l.id = p.node where b.id = p.node""",
}
MARK_SETTLED = "update answer set settled = true where call_id = any($1::text[])"
RECALL = "select data from memory where run = $1 order by id desc limit $2"


class RowsMissed(Exception):
    """A write touched fewer rows than it named."""


@dataclass(frozen=True, slots=True)
class Write:
    """One row's worth of work. `values` are the columns after the tenant."""

    kind: str
    tenant: UUID
    values: tuple[Any, ...]


async def create_database(admin: asyncpg.Connection, host: str, service: str) -> None:
    """Makes the service's database, its tables with forced RLS, and its `app` role."""
    await admin.execute(f'create role "app_{service}" login')
    await admin.execute(f'create database "{service}"')
    owner = await asyncpg.connect(host=host, user="postgres", database=service)
    for table, columns in TABLES[service].items():
        await owner.execute(f"""
            create table {table} (tenant uuid not null, {columns});
            alter table {table} enable row level security;
            alter table {table} force row level security;
            create policy tenants on {table} to "app_{service}"
                using (tenant in (select unnest(current_setting('app.tenants')::uuid[])))
                with check (tenant in (select unnest(current_setting('app.tenants')::uuid[])));
            grant select, insert, update on {table} to "app_{service}";""")
    if service in INDEXES:
        await owner.execute(INDEXES[service])
    await owner.close()


class Store:
    """Commits writes one by one, or grouped: while one transaction is on its way, the next group gathers."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._waiting: list[tuple[Write, asyncio.Future[None]]] = []
        self._wake = asyncio.Event()
        self._settled: list[tuple[UUID, str]] = []
        self.write_transactions = 0
        self.rows_written = 0

    async def commit(self, write: Write) -> None:
        """Commits one write in a transaction of its own."""
        await self._transact([write])

    def commit_grouped(self, write: Write) -> asyncio.Future[None]:
        """Commits one write with all others that wait."""
        if len(self._waiting) >= WAITING_BOUND:
            raise OverflowError("too many writes wait")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((write, future))
        self._wake.set()
        return future

    async def run_groups(self) -> None:
        """Owner of the grouped commits; runs as long as the service does."""
        while True:
            await self._wake.wait()
            group, self._waiting = self._waiting[:GROUP_BOUND], self._waiting[GROUP_BOUND:]
            if not self._waiting:
                self._wake.clear()
            try:
                await self._transact([write for write, _ in group])
            except (asyncpg.PostgresError, RowsMissed) as error:
                for _, future in group:
                    future.set_exception(error)
            else:
                for _, future in group:
                    future.set_result(None)

    async def _transact(self, writes: Sequence[Write]) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            await self._scope(connection, {write.tenant for write in writes})
            by_kind: dict[str, list[tuple[Any, ...]]] = {}
            for write in writes:
                by_kind.setdefault(write.kind, []).append((write.tenant, *write.values))
            for kind, statement in WRITES.items():
                if rows := by_kind.get(kind):
                    tag = await connection.execute(statement, *map(list, zip(*rows, strict=True)))
                    if kind != "settle" and int(tag.split()[-1]) != len(rows):
                        raise RowsMissed(f"{kind}: {tag} of {len(rows)}")
        self.write_transactions += 1
        self.rows_written += len(writes)

    async def recall(self, tenant: UUID, run: UUID, limit: int) -> list[str]:
        async with self._pool.acquire() as connection, connection.transaction(readonly=True):
            await self._scope(connection, {tenant})
            return [row["data"] for row in await connection.fetch(RECALL, run, limit)]

    def mark_settled(self, tenant: UUID, call_id: str) -> None:
        """Notes that a recorded answer is settled. Written lazily: the sweeper may settle again, it is idempotent."""
        self._settled.append((tenant, call_id))

    async def run_settled_marks(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            if not self._settled:
                continue
            settled, self._settled = self._settled, []
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute("set local synchronous_commit = off")
                await self._scope(connection, {tenant for tenant, _ in settled})
                await connection.execute(MARK_SETTLED, [call_id for _, call_id in settled])

    @staticmethod
    async def _scope(connection: asyncpg.Connection, tenants: set[UUID]) -> None:
        await connection.fetchval("select set_config('app.tenants', $1, true)", "{" + ",".join(map(str, tenants)) + "}")
