"""Commands that wait for the owner of their run, and what requests that gave them were answered."""

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final
from uuid import UUID

from asyncpg import Record
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid, to_uuid
from services.meshkit.core.once import AnsweredBefore, Once, RequestInProgress, current_once
from services.meshkit.crypto.errors import KeyDestroyed, SealBroken
from services.meshkit.sql.once import key_of, place_of
from services.meshkit.sql.request_ids import claim, keep
from services.meshkit.sql.scope import DriverScope, driver_scope, tenant_scope
from services.meshkit.telemetry.logs import logger
from services.orchestrator.domain.errors import SignalsAtLimit
from services.orchestrator.engine.journal import JournalCodec
from services.orchestrator.engine.run import (
    SIGNAL,
    RunCommand,
    RunView,
)

log = logger(__name__)

_COMMANDS_AT_ONCE: Final = 1_000
#: Most signals of one run that wait to be taken.
_WAITING_SIGNALS: Final = 1_000
#: Most other commands of one run that wait; beyond them one of each kind is enough.
_WAITING_COMMANDS: Final = 64
#: Runs whose commands are looked up at once, and most commands of each: who does not take its own holds up nobody.
_COMMANDED_AT_ONCE: Final = 64
_COMMANDS_OF_EACH: Final = 16
#: What a kept answer of a steering request begins with while its command waits; an envelope begins with 1.
_COMMAND: Final = b"\x00"
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


class SqlInbox:
    """Implements `engine.ports.Inbox` and `usecases.ports.GivenCommands`."""

    def __init__(self, app: AsyncEngine, *, maintenance: AsyncEngine, codec: JournalCodec) -> None:
        self._app = app
        self._maintenance = maintenance
        self._codec = codec

    async def add_command(self, tenant: TenantId, run_id: str, command: RunCommand) -> RunCommand:
        """See `Inbox.add_command`."""
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
        """See `Inbox.commands_of`."""
        async with driver_scope(self._maintenance, None, read_only=True) as scope:
            rows = await scope.driver.fetch(_COMMANDS_OF, to_uuid(run_id, "run"), _COMMANDS_AT_ONCE, SIGNAL)
        return [command async for _, command in self._opened(rows)]

    async def commands(
        self, shards: Collection[int], *, after: str | None = None
    ) -> Mapping[str, Sequence[RunCommand]]:
        """See `Inbox.commands`."""
        last = None if after is None else to_uuid(after, "run")
        bounds = _COMMANDED_AT_ONCE, _COMMANDS_OF_EACH, SIGNAL
        async with driver_scope(self._maintenance, None, read_only=True) as scope:
            rows = await scope.driver.fetch(_COMMANDS, list(shards), last, *bounds)
        found: dict[str, list[RunCommand]] = {from_uuid("run", row["run_id"]): [] for row in rows}
        async for run_id, command in self._opened(rows):
            found[run_id].append(command)
        return found

    async def drop_late_commands(self) -> int:
        """See `Inbox.drop_late_commands`."""
        async with driver_scope(self._maintenance, None) as scope:
            rows = await scope.driver.fetch(_DROP_LATE_COMMANDS, _COMMANDS_AT_ONCE)
            await scope.commit()
        return len(rows)

    async def is_waiting(self, tenant: TenantId, command: RunCommand) -> bool:
        """See `Inbox.is_waiting`."""
        async with driver_scope(self._app, tenant, read_only=True) as scope:
            statement = "SELECT true FROM run_command WHERE command_id = $1"
            return bool(await scope.driver.fetchval(statement, command.command_id))
