"""Runs, their journals and leases in Postgres. Writes go through asyncpg itself: they are the hot path."""

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from asyncpg import Record
from sqlalchemy.ext.asyncio import AsyncEngine

from comitia.orchestrator.v1 import journal_pb2, session_pb2
from services.meshkit.blobs.store import BlobStoreAway
from services.meshkit.core.failpoints import failpoint
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid, to_uuid
from services.meshkit.core.once import AnsweredBefore, Once, RequestInProgress, current_once
from services.meshkit.core.tenant import KnowsTenants, QuotaExceeded, rules_of
from services.meshkit.crypto.errors import KeyDestroyed, KeyServiceAway, SealBroken
from services.meshkit.sql.once import key_of, place_of
from services.meshkit.sql.one_trip import one_trip
from services.meshkit.sql.request_ids import RequestKey, claim, keep
from services.meshkit.sql.scope import DriverScope, driver_scope, listed_tenants, tenant_scope
from services.meshkit.telemetry.logs import logger
from services.orchestrator.domain.errors import RunArchived, RunNotFound, SignalsAtLimit
from services.orchestrator.engine.journal import JournalCodec
from services.orchestrator.engine.ports import WritesNotReady
from services.orchestrator.engine.run import (
    SHARDS,
    SIGNAL,
    Created,
    Holdings,
    OwnedRun,
    RunCommand,
    RunKind,
    RunView,
    RunWrite,
    ShardLease,
    StartKey,
    kind_of,
)
from services.orchestrator.storage.one_trips import BEGIN_RUN, COMMIT_TICK, SHARD_LOCK, VIEW_OF_RUN
from services.orchestrator.storage.tick_arrays import tick_arrays

log = logger(__name__)

#: Life of a lease, in database time. An owner that does not extend it in time loses its runs.
LEASE: Final = timedelta(seconds=15)
#: Journal rows read at once in recovery and by watchers.
_ROWS_AT_ONCE: Final = 64
#: What of them is opened at once, with what lies in the object store; one row alone may be larger.
_BYTES_AT_ONCE: Final = 8 * 1024 * 1024
_COMMANDS_AT_ONCE: Final = 1_000
#: Most signals of one run that wait to be taken.
_WAITING_SIGNALS: Final = 1_000
#: Most other commands of one run that wait; beyond them one of each kind is enough.
_WAITING_COMMANDS: Final = 64
#: Runs whose commands are looked up at once, and most commands of each: who does not take its own holds up nobody.
_COMMANDED_AT_ONCE: Final = 64
_COMMANDS_OF_EACH: Final = 16
#: Runs of a shard that are looked up at once.
_RUNS_AT_ONCE: Final = 64
#: What a kept answer of a steering request begins with while its command waits; an envelope begins with 1.
_COMMAND: Final = b"\x00"
#: Kept by older releases: the id of the run, as text.
_OLD_ANSWER: Final = b"run_"
_ID_BYTES: Final = 16
_START_METHODS: Final = {
    RunKind.SESSION: "comitia.orchestrator.v1.SessionService/StartSession",
    RunKind.RUN: "comitia.orchestrator.v1.RunService/StartRun",
}
_FORK_METHOD: Final = "comitia.orchestrator.v1.RecordService/ForkRun"

#: Starts of one tenant take turns until they are committed, so that none is counted by nobody. The key is a constant of
#: ours and the tenant.
_TAKE_TURNS: Final = "SELECT pg_advisory_xact_lock(1919249001, hashtext($1::text))"
_STORED: Final = "SELECT coalesce(sum(bytes), 0)::bigint FROM storage_used WHERE tenant_id = $1"
_IN_PROGRESS: Final = "SELECT count(*) FROM run WHERE tenant_id = $1 AND state NOT IN (5, 6, 7)"
#: A replica that has not said for so long that it is alive takes no share of the shards.
_BEAT: Final = """
    INSERT INTO engine_replica (owner, alive_until) VALUES ($1, now() + $2::interval)
    ON CONFLICT (owner) DO UPDATE SET alive_until = excluded.alive_until"""
_BURY: Final = """
    DELETE FROM engine_replica WHERE alive_until < now() OR ($1 AND split_part(owner, '/', 1) = $2 AND owner <> $3)"""
_ALIVE: Final = "SELECT count(*) FROM engine_replica"
_EXTEND: Final = """
    UPDATE shard SET lease_until = now() + $4::interval
    FROM unnest($2::smallint[], $3::bigint[]) AS held (number, epoch)
    WHERE shard.shard = held.number AND shard.epoch = held.epoch AND shard.owner = $1
    RETURNING shard.shard, shard.epoch"""
#: A commit under way keeps its shards from being taken over; they are tried again in the next round.
_CLAIM: Final = f"""
    WITH free AS (
        SELECT shard FROM shard
        WHERE owner IS NULL OR lease_until < now() OR (owner = $1 AND shard <> ALL($5::smallint[]))
            OR ($3 AND split_part(owner, '/', 1) = $6 AND owner <> $1)
        ORDER BY shard LIMIT $2 FOR UPDATE SKIP LOCKED)
    UPDATE shard SET owner = $1, epoch = epoch + 1, lease_until = now() + $4::interval
    FROM free WHERE shard.shard = free.shard AND pg_try_advisory_xact_lock({SHARD_LOCK}, free.shard)
    RETURNING shard.shard, shard.epoch"""  # noqa: S608  # a constant of ours
_RELEASE: Final = """
    UPDATE shard SET owner = NULL, lease_until = NULL FROM unnest($2::smallint[], $3::bigint[]) AS held (number, epoch)
    WHERE shard.shard = held.number AND shard.epoch = held.epoch AND shard.owner = $1"""
_LEAVE: Final = "DELETE FROM engine_replica WHERE owner = $1"
#: What waits for somebody (2), or is paused (8), rests in the database until a command or its moment comes.
_OPEN_RUNS: Final = """
    SELECT tenant_id, run_id, grant_id, shard FROM run
    WHERE shard = $1 AND state NOT IN (2, 5, 6, 7, 8) AND ($2::uuid IS NULL OR run_id > $2) ORDER BY run_id LIMIT $3"""
_WAKING_RUNS: Final = """
    SELECT tenant_id, run_id, grant_id, shard FROM run
    WHERE wake_time <= $2 AND state NOT IN (5, 6, 7) AND shard = ANY($1::smallint[]) AND run_id <> ALL($4::uuid[])
    ORDER BY wake_time LIMIT $3"""
_OWNED_RUN: Final = """
    SELECT tenant_id, run_id, grant_id, shard FROM run WHERE run_id = $1 AND state NOT IN (5, 6, 7)"""
#: Whatever else is asked of a run comes before its signals, of which there may be many.
_COMMANDS: Final = """
    WITH asked AS (
        SELECT DISTINCT command.run_id FROM run_command AS command JOIN run USING (run_id)
        WHERE run.shard = ANY($1::smallint[]) AND run.state NOT IN (5, 6, 7)
            AND ($2::uuid IS NULL OR command.run_id > $2)
        ORDER BY command.run_id LIMIT $3)
    SELECT command.* FROM asked CROSS JOIN LATERAL (
        SELECT tenant_id, run_id, command_id, kind, subject, payload FROM run_command
        WHERE run_id = asked.run_id ORDER BY kind = $5, command_id LIMIT $4) AS command
    ORDER BY command.run_id, command.command_id"""
_COMMANDS_OF: Final = """
    SELECT * FROM (
        SELECT tenant_id, run_id, command_id, kind, subject, payload FROM run_command
        WHERE run_id = $1 ORDER BY kind = $3, command_id LIMIT $2) AS command
    ORDER BY command_id"""

#: No more than fit into so many bytes, and one too many to tell whether there are more.
_VIEWS: Final = """
    SELECT run_id, kind, view, found FROM (
        SELECT run_id, kind, view, count(*) OVER () AS found, row_number() OVER newest AS place,
            sum(octet_length(view)) OVER newest - octet_length(view) AS before
        FROM (SELECT run_id, kind, view FROM run
              WHERE ($1::uuid IS NULL OR run_id < $1) AND ($2::smallint IS NULL OR kind = $2)
                  AND (NOT $3::boolean OR state NOT IN (5, 6, 7))
              ORDER BY run_id DESC LIMIT $4 + 1) AS following
        WINDOW newest AS (ORDER BY run_id DESC)
    ) AS measured WHERE place <= $4 AND before < $5 ORDER BY run_id DESC"""
#: From the row that holds the next fact on: the rows before it are not looked at.
_ENTRIES: Final = """
    SELECT first_sequence, payload FROM journal
    WHERE run_id = $1 AND first_sequence + entry_count > $2 + 1 AND first_sequence >= coalesce(
        (SELECT first_sequence FROM journal WHERE run_id = $1 AND first_sequence <= $2 + 1
         ORDER BY first_sequence DESC LIMIT 1), 0)
    ORDER BY first_sequence LIMIT $3"""

#: The latest command is not repeated: it does the same whoever asked first. An earlier one of its kind does not: what
#: was asked between them undoes it.
_ADD_COMMAND: Final = """
    WITH waiting AS (SELECT command_id, kind, subject FROM run_command WHERE run_id = $2 AND kind <> $6),
    same AS (
        SELECT command_id, subject FROM waiting
        WHERE kind = $4 AND ((SELECT count(*) FROM waiting) >= $7
            OR command_id = (SELECT command_id FROM waiting ORDER BY command_id DESC LIMIT 1))
        ORDER BY command_id DESC LIMIT 1),
    added AS (
        INSERT INTO run_command (tenant_id, run_id, command_id, kind, subject)
        SELECT $1, $2, $3, $4, $5 WHERE NOT EXISTS (SELECT 1 FROM same))
    SELECT command_id, subject FROM same"""
#: Each signal counts. Two that come at the same moment may both be the last one.
_ADD_SIGNAL: Final = """
    INSERT INTO run_command (tenant_id, run_id, command_id, kind, subject, payload)
    SELECT $1, $2, $3, $4, $5, $6
    WHERE (SELECT count(*) FROM run_command WHERE run_id = $2 AND kind = $4) < $7
    RETURNING command_id, subject"""
_DROP_LATE_COMMANDS: Final = """
    DELETE FROM run_command WHERE (run_id, command_id) IN (
        SELECT command.run_id, command.command_id FROM run_command AS command JOIN run USING (run_id)
        WHERE run.state IN (5, 6, 7) LIMIT $1)
    RETURNING 1"""


class SqlRunStore:
    """Implements `engine.ports.RunStore`, and answers what callers ask of runs.

    Args:
        commits: of the same role as `app`, for ticks alone: they wait for no connection that starts and reads have.
    """

    def __init__(
        self,
        *,
        app: AsyncEngine,
        commits: AsyncEngine,
        maintenance: AsyncEngine,
        codec: JournalCodec,
        tenants: KnowsTenants,
    ) -> None:
        self._app = app
        self._commits = commits
        self._maintenance = maintenance
        self._codec = codec
        self._tenants = tenants

    async def started_before(self, key: StartKey) -> RunView | None:
        """See `RunStore.started_before`."""
        async with tenant_scope(self._app, key.tenant) as scope:
            # Claimed to compare the body, and rolled back: the claim that counts stands in `create`.
            answer = await claim(scope, _request_key(key), key.body)
        return None if answer is None else await self._first_view(key, answer)

    async def _first_view(self, key: StartKey, answer: bytes) -> RunView:
        if answer.startswith(_OLD_ANSWER):
            return await self.view(key.tenant, answer.decode())
        run_id = from_uuid("run", UUID(bytes=answer[:_ID_BYTES]))
        return await self._codec.open_view(key.tenant, run_id, answer[_ID_BYTES:], key.kind)

    async def create(self, first: RunWrite, key: StartKey | None, lease: ShardLease | None) -> Created:
        """See `RunStore.create`."""
        run = first.run
        await self._codec.load([run.tenant])
        if first.view is None:
            raise ValueError("a new run has a view")
        view = self._codec.seal_view(run, first.view)
        [sealed] = self._codec.seal([first])
        await self._codec.put(sealed.blobs)
        async with driver_scope(self._app, run.tenant) as scope:
            if key is not None:
                earlier = await claim(scope, _request_key(key), key.body)
                if earlier is not None:
                    return Created(earlier=await self._first_view(key, earlier))
                await keep(scope, _request_key(key), run.uuid.bytes + view)
            await self._check_quota(scope, run.tenant)
            held: bool | None = await scope.driver.fetchval(
                BEGIN_RUN.call,
                *(run.tenant, run.uuid, run.shard, None if lease is None else lease.epoch),
                *(int(kind_of(first.view)), int(first.view.state), view, first.last_sequence),
                *(run.grant_id, first.wake_time),
                *(first.first_sequence, len(first.entries), sealed.payload, sealed.commitments),
                [blob.digest for blob in sealed.blobs],
                [blob.sequence for blob in sealed.blobs],
                [len(blob.content) for blob in sealed.blobs],
                # Starts count in slots of their own, so that none waits for a tick under way, nor a tick for it.
                *(SHARDS + run.shard, sealed.size),
                listed_tenants(run.tenant),
            )
            if held is not None:
                await scope.commit()
        if held is None:
            # A sub-run, whose id is that of its place, and which the owner before has started.
            return Created(earlier=await self.view(run.tenant, run.run_id))
        return Created(held=held)

    async def check_quota(self, tenant: TenantId) -> None:
        """See `RunStore.check_quota`."""
        quotas = rules_of(self._tenants, tenant).quotas
        if quotas.max_concurrent_runs or quotas.max_storage_bytes:
            # Rolled back: it only looks.
            async with driver_scope(self._app, tenant) as scope:
                await self._check_quota(scope, tenant)

    async def _check_quota(self, scope: DriverScope, tenant: TenantId) -> None:
        """Raises: QuotaExceeded. The count of runs that it finds holds until the scope ends, in all replicas.

        Bytes grow with every run in progress, so none are reserved: what has begun goes on, and nothing more begins.
        """
        quotas = rules_of(self._tenants, tenant).quotas
        if quotas.max_storage_bytes:
            stored: int = await scope.driver.fetchval(_STORED, tenant)
            if stored >= quotas.max_storage_bytes:
                raise QuotaExceeded("max_storage_bytes", limit=quotas.max_storage_bytes, used=stored)
        most = quotas.max_concurrent_runs
        if not most:
            return
        await scope.driver.execute(_TAKE_TURNS, str(tenant))
        used: int = await scope.driver.fetchval(_IN_PROGRESS, tenant)
        if used >= most:
            raise QuotaExceeded("max_concurrent_runs", limit=most, used=used)

    async def commit(self, leases: Sequence[ShardLease], writes: Sequence[RunWrite]) -> Collection[int]:
        """See `RunStore.commit`."""
        tenants = {write.run.tenant for write in writes}
        await self._load_keys(tenants, writes)
        rows_of_facts = self._codec.seal([write for write in writes if write.entries])
        sealed = [next(rows_of_facts) if write.entries else None for write in writes]
        arrays = tuple(tick_arrays(leases, writes, sealed, self._codec))
        blobs = [blob for row in sealed if row is not None for blob in row.blobs]
        if blobs:
            try:
                await self._codec.put(blobs)
            except BlobStoreAway as cause:
                big = [write.run.run_id for write, row in zip(writes, sealed, strict=True) if row and row.blobs]
                raise WritesNotReady(cause.message, big) from cause
            await failpoint("orchestrator.after_blobs")
        rows = await one_trip(self._commits, tenants, COMMIT_TICK, *arrays)
        return [row["lost"] for row in rows]

    async def _load_keys(self, tenants: Collection[TenantId], writes: Sequence[RunWrite]) -> None:
        """Makes the keys of these writes ready. Raises: WritesNotReady: of those whose key is not to be had."""
        try:
            await self._codec.load(tenants)
        except KeyServiceAway:
            keyless = set[TenantId]()
            for tenant in tenants:
                try:
                    await self._codec.load([tenant])
                except KeyServiceAway:
                    keyless.add(tenant)
            if keyless:
                waiting = [write.run.run_id for write in writes if write.run.tenant in keyless]
                raise WritesNotReady("the key service is away", waiting) from None

    async def entries(
        self, tenant: TenantId, run_id: str, *, after: int = 0
    ) -> Sequence[tuple[int, journal_pb2.JournalEntry]]:
        """See `RunStore.entries`."""
        rows = await self._rows(
            tenant,
            _ENTRIES,
            to_uuid(run_id, "run"),
            after,
            _ROWS_AT_ONCE,
        )
        if not rows:
            await self._refuse_archived(tenant, run_id)
        found: list[tuple[int, journal_pb2.JournalEntry]] = []
        size = 0
        for row in rows:
            opened = await self._codec.open(tenant, run_id, row["first_sequence"], row["payload"])
            found += [
                (sequence, entry)
                for sequence, entry in enumerate(opened.entries, row["first_sequence"])
                if sequence > after
            ]
            size += opened.ByteSize() if opened.blobs else len(row["payload"])
            if size >= _BYTES_AT_ONCE:
                break
        return found

    async def hold(self, owner: str, leases: Sequence[ShardLease], *, restarted: bool, most: int | None) -> Holdings:
        """See `RunStore.hold`."""
        replica = owner.partition("/")[0]
        numbers, epochs = [lease.shard for lease in leases], [lease.epoch for lease in leases]
        async with driver_scope(self._maintenance, None) as scope:
            await scope.driver.execute(_BEAT, owner, LEASE)
            await scope.driver.execute(_BURY, restarted, replica, owner)
            held = await scope.driver.fetch(_EXTEND, owner, numbers, epochs, LEASE)
            share = -(-SHARDS // await scope.driver.fetchval(_ALIVE))
            wanted = max(0, min(share - len(held), SHARDS if most is None else most))
            held += await scope.driver.fetch(_CLAIM, owner, wanted, restarted, LEASE, numbers, replica)
            await scope.commit()
        return Holdings(leases=tuple(ShardLease(shard=row["shard"], epoch=row["epoch"]) for row in held), share=share)

    async def release(self, owner: str, leases: Sequence[ShardLease], *, leaving: bool) -> None:
        """See `RunStore.release`."""
        numbers, epochs = [lease.shard for lease in leases], [lease.epoch for lease in leases]
        async with driver_scope(self._maintenance, None) as scope:
            await scope.driver.execute(_RELEASE, owner, numbers, epochs)
            if leaving:
                await scope.driver.execute(_LEAVE, owner)
            await scope.commit()

    async def open_runs(self, shard: int, *, after: str | None) -> Sequence[OwnedRun]:
        """See `RunStore.open_runs`."""
        last = None if after is None else to_uuid(after, "run")
        async with driver_scope(self._maintenance, None, read_only=True) as scope:
            rows = await scope.driver.fetch(_OPEN_RUNS, shard, last, _RUNS_AT_ONCE)
        return [_owned(row) for row in rows]

    async def waking_runs(
        self, shards: Collection[int], *, before: datetime, but: Collection[str] = ()
    ) -> Sequence[OwnedRun]:
        """See `RunStore.waking_runs`."""
        left_out = [to_uuid(run_id, "run") for run_id in but]
        async with driver_scope(self._maintenance, None, read_only=True) as scope:
            rows = await scope.driver.fetch(_WAKING_RUNS, list(shards), before, _RUNS_AT_ONCE, left_out)
        return [_owned(row) for row in rows]

    async def owned_run(self, run_id: str) -> OwnedRun | None:
        """See `RunStore.owned_run`."""
        async with driver_scope(self._maintenance, None, read_only=True) as scope:
            row = await scope.driver.fetchrow(_OWNED_RUN, to_uuid(run_id, "run"))
        return None if row is None else _owned(row)

    async def add_command(self, tenant: TenantId, run_id: str, command: RunCommand) -> RunCommand:
        """See `RunStore.add_command`."""
        once = current_once()
        async with driver_scope(self._app, tenant) as scope:
            if once is not None and await self._claim(scope, once):
                raise RequestInProgress(once.request_id)
            statement, values = await self._adding(tenant, run_id, command)
            row = await scope.driver.fetchrow(statement, *values)
            if row is None and command.kind == SIGNAL:
                raise SignalsAtLimit(run_id, _WAITING_SIGNALS)
            waiting = command if row is None else replace(command, command_id=row["command_id"], by=row["subject"])
            if once is not None:
                await keep(scope, key_of(once), _COMMAND + waiting.command_id.bytes)
            await scope.commit()
        return waiting

    async def _adding(self, tenant: TenantId, run_id: str, command: RunCommand) -> tuple[str, tuple[object, ...]]:
        """Gives the statement that adds a command, and its values."""
        values = tenant, to_uuid(run_id, "run"), command.command_id, command.kind, command.by
        if command.kind != SIGNAL:
            return _ADD_COMMAND, (*values, SIGNAL, _WAITING_COMMANDS)
        sealed = await self._codec.seal_answer(tenant, command.payload, place=command.command_id.bytes)
        return _ADD_SIGNAL, (*values, sealed, _WAITING_SIGNALS)

    async def taken_before(self, tenant: TenantId) -> bool:
        """See `GivenCommands.taken_before`."""
        once = current_once()
        if once is None:
            return False
        async with driver_scope(self._app, tenant) as scope:
            # Rolled back: the claim that counts stands in `add_command`.
            return await self._claim(scope, once)

    async def _claim(self, scope: DriverScope, once: Once) -> bool:
        """Claims a request that gives a command; True when its command was taken and its answer was not kept.

        Raises: AnsweredBefore; RequestIdReused; RequestInProgress.
        """
        once.claimed = True
        answer = await claim(scope, key_of(once), once.body)
        if answer is None:
            return False
        if not answer.startswith(_COMMAND):
            raise AnsweredBefore(await self._codec.open_answer(once.tenant, answer, place=place_of(once)))
        command_id = UUID(bytes=answer[len(_COMMAND) :])
        if await scope.driver.fetchval("SELECT true FROM run_command WHERE command_id = $1", command_id):
            raise RequestInProgress(once.request_id)
        return True

    async def keep_answer(self, tenant: TenantId, view: RunView) -> None:
        """See `GivenCommands.keep_answer`."""
        once = current_once()
        if once is None:
            return
        sealed = await self._codec.seal_answer(tenant, once.answer(view), place=place_of(once))
        async with tenant_scope(self._app, tenant, audited=False) as scope:
            await keep(scope, key_of(once), sealed)
            await scope.commit()

    async def _opened(self, rows: Sequence[Record]) -> AsyncGenerator[tuple[str, RunCommand]]:
        """Gives commands and their runs; none whose content nobody can read, lest it hold up the others."""
        for row in rows:
            command_id, payload = row["command_id"], b""
            if row["payload"] is not None:
                try:
                    place = command_id.bytes
                    payload = await self._codec.open_answer(TenantId(row["tenant_id"]), row["payload"], place=place)
                except (KeyDestroyed, SealBroken) as error:
                    log.error("a signal cannot be read", command_id=str(command_id), cause=error.message)
                    continue
            command = RunCommand(command_id=command_id, kind=row["kind"], by=row["subject"], payload=payload)
            yield from_uuid("run", row["run_id"]), command

    async def commands_of(self, run_id: str) -> Sequence[RunCommand]:
        """See `RunStore.commands_of`."""
        async with driver_scope(self._maintenance, None, read_only=True) as scope:
            rows = await scope.driver.fetch(_COMMANDS_OF, to_uuid(run_id, "run"), _COMMANDS_AT_ONCE, SIGNAL)
        return [command async for _, command in self._opened(rows)]

    async def commands(
        self, shards: Collection[int], *, after: str | None = None
    ) -> Mapping[str, Sequence[RunCommand]]:
        """See `RunStore.commands`."""
        last = None if after is None else to_uuid(after, "run")
        bounds = _COMMANDED_AT_ONCE, _COMMANDS_OF_EACH, SIGNAL
        async with driver_scope(self._maintenance, None, read_only=True) as scope:
            rows = await scope.driver.fetch(_COMMANDS, list(shards), last, *bounds)
        found: dict[str, list[RunCommand]] = {from_uuid("run", row["run_id"]): [] for row in rows}
        async for run_id, command in self._opened(rows):
            found[run_id].append(command)
        return found

    async def drop_late_commands(self) -> int:
        """See `RunStore.drop_late_commands`."""
        async with driver_scope(self._maintenance, None) as scope:
            rows = await scope.driver.fetch(_DROP_LATE_COMMANDS, _COMMANDS_AT_ONCE)
            await scope.commit()
        return len(rows)

    async def is_waiting(self, tenant: TenantId, command: RunCommand) -> bool:
        """See `RunStore.is_waiting`."""
        rows = await self._rows(tenant, "SELECT 1 FROM run_command WHERE command_id = $1", command.command_id)
        return bool(rows)

    async def view(self, tenant: TenantId, run_id: str) -> RunView:
        """Gives what callers see of a run as it was last written. Raises: RunNotFound."""
        rows = await one_trip(self._app, tenant, VIEW_OF_RUN, to_uuid(run_id, "run"))
        if not rows:
            raise RunNotFound(run_id)
        return await self._codec.open_view(tenant, run_id, rows[0]["view"], RunKind(rows[0]["kind"]))

    async def views(
        self, tenant: TenantId, *, before: str | None, most: int, kind: RunKind | None = None, open_only: bool = False
    ) -> tuple[Sequence[RunView], bool]:
        """See `Written.views`."""
        rows = await self._rows(
            tenant,
            _VIEWS,
            None if before is None else to_uuid(before, "run", field="page_token"),
            None if kind is None else int(kind),
            open_only,
            most,
            _BYTES_AT_ONCE,
        )
        views = [
            await self._codec.open_view(tenant, from_uuid("run", row["run_id"]), row["view"], RunKind(row["kind"]))
            for row in rows
        ]
        return views, bool(rows) and rows[0]["found"] > len(rows)

    async def turns(
        self, tenant: TenantId, run_id: str, *, after: int, most: int
    ) -> Sequence[tuple[int, session_pb2.Turn]]:
        """Gives recorded turns of a session after turn number `after`, in order, with their numbers."""
        run_uuid = to_uuid(run_id, "run")
        rows = await self._rows(
            tenant,
            "SELECT place.turn, place.sequence, row.first_sequence, row.payload FROM turn_place AS place"
            " CROSS JOIN LATERAL (SELECT first_sequence, payload FROM journal WHERE run_id = $1"
            "  AND first_sequence <= place.sequence ORDER BY first_sequence DESC LIMIT 1) AS row"
            " WHERE place.run_id = $1 AND place.turn > $2 ORDER BY place.turn LIMIT $3",
            *(run_uuid, after, most),
        )
        if not rows:
            await self._refuse_archived(tenant, run_id)
        found: list[tuple[int, session_pb2.Turn]] = []
        for row in rows:
            opened = await self._codec.open(tenant, run_id, row["first_sequence"], row["payload"])
            position: int = row["sequence"] - row["first_sequence"]
            entry = opened.entries[position]
            found.append((row["turn"], entry.step_completed.turn))
        return found

    async def _refuse_archived(self, tenant: TenantId, run_id: str) -> None:
        """Tells a run without facts from one whose facts went elsewhere. Raises: RunArchived."""
        if await self._rows(
            tenant, "SELECT 1 FROM run WHERE run_id = $1 AND archive_parts IS NOT NULL", to_uuid(run_id, "run")
        ):
            raise RunArchived(run_id)

    async def _rows(self, tenant: TenantId, statement: str, *values: object) -> Sequence[Record]:
        async with driver_scope(self._app, tenant, read_only=True) as scope:
            return await scope.driver.fetch(statement, *values)


def _owned(row: Record) -> OwnedRun:
    return OwnedRun(
        tenant=TenantId(row["tenant_id"]),
        run_id=from_uuid("run", row["run_id"]),
        grant_id=row["grant_id"],
        shard=row["shard"],
    )


def _request_key(key: StartKey) -> RequestKey:
    method = _FORK_METHOD if key.forks else _START_METHODS[key.kind]
    return RequestKey(tenant=key.tenant, method=method, request_id=key.request_id)
