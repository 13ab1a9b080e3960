"""What is missing in the audit trail, and who has looked into it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from asyncpg import Record
from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway.domain.audit_stream import Acknowledgement, BreakKind, KnownBreak, StreamBreak
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.once import claim_once, keep_once
from services.meshkit.sql.scope import DriverScope, driver_scope

#: The acknowledgements of a row of `audit_break` that came after it was last noticed.
ACKNOWLEDGED: Final = """
    SELECT actor, acknowledge_time, reason FROM audit_acknowledgement AS given
    WHERE (given.service, given.stream, given.position, given.kind)
        = (audit_break.service, audit_break.stream, audit_break.position, audit_break.kind)
      AND given.acknowledge_time >= audit_break.notice_time"""
#: Breaks with the first acknowledgement of each.
BREAKS: Final = f"""
    SELECT service, stream, position, kind, notice_time, given.* FROM audit_break
    LEFT JOIN LATERAL ({ACKNOWLEDGED} ORDER BY acknowledge_time LIMIT 1) AS given ON true"""  # noqa: S608  # a constant
_AT: Final = f"{BREAKS} WHERE (service, stream, position) = ($1, $2, $3) ORDER BY kind"
# One acknowledgement of a gap at a time: the second sees the first.
_LOCK: Final = "SELECT pg_advisory_xact_lock($1)"
_ONE_AT_A_TIME: Final = 0x6175_6469_7403
_ADD: Final = """
    INSERT INTO audit_acknowledgement (service, stream, position, kind, acknowledge_time, actor, reason)
    VALUES ($1, $2, $3, $4, $5, $6, $7)"""


class SqlGapWork:
    """Implements `usecases.audit_ports.GapWork`."""

    def __init__(self, scope: DriverScope) -> None:
        self._scope = scope

    async def claim_once(self) -> None:
        """See `GapWork.claim_once`."""
        await claim_once(self._scope)

    async def locked(self, service: str, stream: int, position: int) -> list[KnownBreak]:
        """See `GapWork.locked`."""
        await self._scope.driver.execute(_LOCK, _ONE_AT_A_TIME)
        return [break_of(row) for row in await self._scope.driver.fetch(_AT, service, stream, position)]

    async def acknowledge(self, one: StreamBreak, given: Acknowledgement) -> None:
        """See `GapWork.acknowledge`."""
        place = (one.service, one.stream, one.position, one.kind.value)
        await self._scope.driver.execute(_ADD, *place, given.time, given.actor, given.reason)

    async def keep_once(self, made: KnownBreak) -> None:
        """See `GapWork.keep_once`."""
        await keep_once(self._scope, made)

    async def commit(self) -> None:
        """See `GapWork.commit`."""
        await self._scope.commit()


class SqlBeginGapWork:
    """Implements `usecases.audit_ports.BeginGapWork`, as role `app`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def __call__(self, tenant: TenantId) -> AsyncGenerator[SqlGapWork]:
        """See `BeginGapWork`."""
        async with driver_scope(self._engine, tenant) as scope:
            yield SqlGapWork(scope)


def break_of(row: Record) -> KnownBreak:
    """Reads a row of `BREAKS`."""
    given = None
    if row["actor"] is not None:
        given = Acknowledgement(actor=row["actor"], time=row["acknowledge_time"], reason=row["reason"])
    return KnownBreak(
        found=StreamBreak(row["service"], row["stream"], row["position"], BreakKind(row["kind"])),
        notice_time=row["notice_time"],
        acknowledged=given,
    )
