"""Messages that are written in the transaction of the change they tell of, and published afterwards.

At least once, with the entry's id as `Nats-Msg-Id`: the stream drops a repeat within its window and consumers are
idempotent. There is no LISTEN/NOTIFY on purpose: a NOTIFY serialises all commits of the database. The process that
wrote wakes its own relay; the others find the entry at their next poll.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol
from uuid import UUID

from sqlalchemy import Column, DateTime, Index, LargeBinary, MetaData, Table, Text, Uuid, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.meshkit.core.errors import ErrorKind, MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.rls import tenant_table
from services.meshkit.sql.scope import driver_scope, maintenance_scope
from services.meshkit.telemetry.logs import logger

if TYPE_CHECKING:
    # Only migrations have it at hand; a service does without its 9 MB.
    from alembic.operations import Operations

log = logger(__name__)

OUTBOX: Final = "outbox"


class Publisher(Protocol):
    """Puts a message on a durable stream; `meshkit.bus.Bus` is one."""

    async def publish(self, subject: str, body: bytes, *, msg_id: str) -> None:
        """Returns once the stream has the message.

        Raises: MeshError of kind UNAVAILABLE: later; of another kind: never with this message.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxEntry:
    """A message to publish."""

    #: UUIDv7 from the service's IdSource: its order is the order of publishing, and it is the message id.
    id: UUID
    tenant: TenantId
    subject: str
    body: bytes


def outbox_table(metadata: MetaData) -> Table:
    """Describes the outbox of a service for its `tables.py`."""
    return Table(
        OUTBOX,
        metadata,
        Column("id", Uuid, primary_key=True),
        Column("tenant_id", Uuid, nullable=False),
        Column("subject", Text, nullable=False),
        Column("body", LargeBinary, nullable=False),
        Column("created_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
        # Why it cannot be published; such an entry waits for `replay_parked`.
        Column("parked_reason", Text),
        Index("ix_outbox_parked", "id", postgresql_where=Column("parked_reason").isnot(None)),
    )


def create_outbox(op: "Operations") -> None:
    """Makes the outbox in a migration. Requests may only add to it."""
    op.execute(
        "CREATE TABLE outbox (id uuid PRIMARY KEY, tenant_id uuid NOT NULL, subject text NOT NULL, body bytea NOT NULL,"
        " created_time timestamptz NOT NULL DEFAULT now(), parked_reason text)"
    )
    op.execute("CREATE INDEX ix_outbox_parked ON outbox (id) WHERE parked_reason IS NOT NULL")
    tenant_table(op, OUTBOX, app=("INSERT",), maintenance=("SELECT", "UPDATE", "DELETE"))


_TABLE: Final = outbox_table(MetaData())
# The relay asks twice a second, and nearly always in vain: without Core that costs half.
_WAITING: Final = """
    SELECT id, subject, body FROM outbox WHERE parked_reason IS NULL ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED"""
_TAKEN: Final = "DELETE FROM outbox WHERE id = ANY($1::uuid[])"
_PARK: Final = "UPDATE outbox SET parked_reason = $2 WHERE id = $1"


async def add_entries(connection: AsyncConnection, entries: Sequence[OutboxEntry]) -> None:
    """Writes entries in the transaction of the change that they tell of."""
    if entries:
        await connection.execute(
            _TABLE.insert(),
            [
                {"id": entry.id, "tenant_id": entry.tenant, "subject": entry.subject, "body": entry.body}
                for entry in entries
            ],
        )


class OutboxRelay:
    """Publishes a service's outbox, oldest first, in bounded batches. Several replicas share the work.

    Args:
        engine: of the `maintenance` role.
        batch: most entries in flight.
        poll_seconds: how long an entry of another process may lie before it is seen.
        retry_seconds: pause after the bus or the database was away.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        publisher: Publisher,
        *,
        batch: int = 100,
        poll_seconds: float = 0.5,
        retry_seconds: float = 1.0,
    ) -> None:
        self._engine = engine
        self._publisher = publisher
        self._batch = batch
        self._poll_seconds = poll_seconds
        self._retry_seconds = retry_seconds
        self._awake = asyncio.Event()
        #: Entries published and parked since the start, for metrics.
        self.published = 0
        self.parked = 0

    def wake(self) -> None:
        """Tells the relay that there is something to publish; call it after the commit."""
        self._awake.set()

    async def __call__(self) -> None:
        """Relays until cancelled."""
        while True:
            self._awake.clear()
            pause = self._poll_seconds
            try:
                while await self.relay_once() == self._batch:
                    pass
            except MeshError as error:
                if error.kind not in (ErrorKind.UNAVAILABLE, ErrorKind.EXHAUSTED, ErrorKind.CONFLICT):
                    raise
                log.warning("outbox waits", reason=error.reason, cause=error.message)
                await asyncio.sleep(self._retry_seconds)
                continue
            try:
                async with asyncio.timeout(pause):
                    await self._awake.wait()
            except TimeoutError:
                continue

    async def relay_once(self) -> int:
        """Publishes one batch and deletes what the stream has taken.

        Returns: how many entries it handled.
        Raises: Unavailable: the bus is away; what was published until then is deleted all the same.
        """
        async with driver_scope(self._engine, None) as scope:
            rows = await scope.driver.fetch(_WAITING, self._batch)
            if not rows:
                return 0
            outcomes = await asyncio.gather(*(self._publish(row["id"], row["subject"], row["body"]) for row in rows))
            done = [row["id"] for row, outcome in zip(rows, outcomes, strict=True) if outcome is None]
            away = [outcome for outcome in outcomes if outcome is not None and outcome.kind is ErrorKind.UNAVAILABLE]
            if done:
                await scope.driver.execute(_TAKEN, done)
            for row, outcome in zip(rows, outcomes, strict=True):
                if outcome is not None and outcome.kind is not ErrorKind.UNAVAILABLE:
                    reason = outcome.message
                    log.error("outbox entry parked", entry=str(row["id"]), subject=row["subject"], reason=reason)
                    await scope.driver.execute(_PARK, row["id"], reason)
                    self.parked += 1
            await scope.commit()
            self.published += len(done)
        if away:
            raise away[0]
        return len(rows)

    async def _publish(self, entry: UUID, subject: str, body: bytes) -> MeshError | None:
        try:
            await self._publisher.publish(subject, body, msg_id=str(entry))
        except MeshError as error:
            return error
        return None


async def replay_parked(engine: AsyncEngine, *, limit: int = 1_000) -> int:
    """Gives parked entries another chance, oldest first; returns how many."""
    async with maintenance_scope(engine) as scope:
        ids = select(_TABLE.c.id).where(_TABLE.c.parked_reason.isnot(None)).order_by(_TABLE.c.id).limit(limit)
        done = await scope.execute(update(_TABLE).where(_TABLE.c.id.in_(ids)).values(parked_reason=None))
        await scope.commit()
    return done.rowcount


async def outbox_lag(engine: AsyncEngine) -> tuple[int, timedelta]:
    """Tells how many entries wait and for how long the oldest has, for metrics."""
    async with maintenance_scope(engine, read_only=True) as scope:
        row = (
            await scope.execute(
                select(func.count(), func.coalesce(func.now() - func.min(_TABLE.c.created_time), timedelta())).where(
                    _TABLE.c.parked_reason.is_(None)
                )
            )
        ).one()
    return int(row[0]), row[1]
