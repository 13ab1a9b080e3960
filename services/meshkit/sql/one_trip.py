"""Transactions in one round trip, for hot paths whose work is one statement, or several without Python in between.

BEGIN with the scope, the statement and COMMIT are three trips; a function of the invoker that sets the scope and works
is one, at half the caller's CPU (docs/decisions/0001). The function's name ends in a hash of its text, so old and new
code find their own while both run.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from asyncpg import Record
from sqlalchemy import PoolProxiedConnection
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import greenlet_spawn

from services.meshkit.core.identity import TenantId
from services.meshkit.sql.audit import adding_given
from services.meshkit.sql.connection import PreambleConnection
from services.meshkit.sql.engine import PooledEngine
from services.meshkit.sql.errors import mapped_errors
from services.meshkit.sql.finish import finish
from services.meshkit.sql.identifiers import checked, literal, quoted
from services.meshkit.sql.request_ids import RETENTION
from services.meshkit.sql.scope import PLANNED_EACH_TIME, listed_tenants

#: Marks our functions in the catalogue, for those who take them down again.
MARK: Final = "comitia: one trip"
_DIGITS: Final = 12
_PLANNED_ONCE: Final = (
    ", set_config('plan_cache_mode', 'force_generic_plan', true), set_config('enable_seqscan', 'off', true)"
)
_PLANNED_EACH_TIME: Final = f", {PLANNED_EACH_TIME}"

#: Stands in the body of a mutation, behind the last `RETURN false` of its own and before all that it writes: keeps the
#: answer to the request and adds the audit entry, if the caller gave them (`recorded_trip.py`).
RECORD: Final = f"""
        IF given_request IS NOT NULL THEN
            IF NOT pg_try_advisory_xact_lock(given_turn) THEN RETURN false; END IF;
            INSERT INTO request_id (tenant_id, method, request_id, body_hash, answer, expire_time)
            VALUES (given_tenant, given_method, given_request, given_body, given_answer,
                    now() + interval '{RETENTION.total_seconds():.0f} seconds')
            ON CONFLICT DO NOTHING;
            IF NOT FOUND THEN RETURN false; END IF;
        END IF;
        IF given_entry IS NOT NULL THEN {adding_given("given_entry")}; END IF;"""  # noqa: S608  # constants
#: What it works with; absent for those that record nothing.
_RECORDED: Final = (
    "given_entry bytea",
    "given_turn bigint",
    "given_tenant uuid",
    "given_method text",
    "given_request uuid",
    "given_body bytea",
    "given_answer bytea",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OneTrip:
    """A transaction as a function of the database; the migrator installs those in a service's `ONE_TRIPS`."""

    #: Lower case; the hash of the text is added to it.
    name: str
    #: SQL types of `$1`, `$2`, … in the body.
    arguments: Sequence[str]
    #: `void`, a type, or `TABLE (name type, …)`; then the body says `RETURN QUERY`.
    returns: str
    #: PL/pgSQL statements. Where a column and a result share a name, the column is meant.
    body: str
    #: Plan its statements once per connection, not at every call (60 to 100 us each). For those that find their rows by
    #: one index whatever the values are. They never scan a table, so a plan made while it was empty stays good.
    planned_once: bool = False
    #: What callers send.
    call: str = field(init=False)
    #: What `recorded_trip` sends; empty for what has no `RECORD` in its body.
    recorded_call: str = field(init=False)
    #: The name in the database.
    function: str = field(init=False)

    def __post_init__(self) -> None:
        text = "\0".join((self.name, *self.arguments, self.returns, self._settings + self.body, *self._recorded))
        function = checked(f"{self.name}_{sha256(text.encode()).hexdigest()[:_DIGITS]}")
        given = len(self.arguments) + 1
        object.__setattr__(self, "function", function)
        object.__setattr__(self, "call", _calling(function, given))
        recorded = _calling(function, given + len(_RECORDED)) if self._recorded else ""
        object.__setattr__(self, "recorded_call", recorded)

    @property
    def _settings(self) -> str:
        return _PLANNED_ONCE if self.planned_once else _PLANNED_EACH_TIME

    @property
    def _recorded(self) -> tuple[str, ...]:
        return _RECORDED if RECORD in self.body else ()

    def statements(self, roles: Iterable[str]) -> tuple[str, ...]:
        """Gives what makes the function and lets these roles, and nobody else, call it. Harmless to repeat."""
        types = ", ".join((*self.arguments, "text", *(one.rpartition(" ")[2] for one in self._recorded)))
        arguments = ", ".join((*self.arguments, "text", *(f"{one} DEFAULT NULL" for one in self._recorded)))
        scope = f"${len(self.arguments) + 1}"
        mark = literal(MARK)
        create = f"""CREATE OR REPLACE FUNCTION {quoted(self.function)}({arguments}) RETURNS {self.returns}
            LANGUAGE plpgsql SECURITY INVOKER AS $one_trip$
            #variable_conflict use_column
            BEGIN
            PERFORM set_config('app.tenants', {scope}, true){self._settings};
            {self.body}
            END
            $one_trip$"""
        return (
            create,
            f"REVOKE ALL ON FUNCTION {quoted(self.function)}({types}) FROM PUBLIC",
            *(f"GRANT EXECUTE ON FUNCTION {quoted(self.function)}({types}) TO {quoted(role)}" for role in roles),
            f"COMMENT ON FUNCTION {quoted(self.function)}({types}) IS {mark}",
        )


async def one_trip(
    engine: AsyncEngine, tenants: TenantId | Iterable[TenantId] | None, work: OneTrip, *values: object
) -> list[Record]:
    """Runs the transaction and commits it; a caller that is cancelled meanwhile is told after its end.

    Args:
        tenants: from verified identities, 1 to 1,000; None for the `maintenance` role, whose policies need none.
    Returns: the rows of a `TABLE`, else one row of one value.
    Raises: Unavailable: Postgres is away, and it is not known whether the work was done. DatabaseBusy: no free
        connection. TransactionConflict: redo the step. An error writes nothing.
    """
    scope = "{}" if tenants is None else listed_tenants(tenants)
    return await finish(run_call(engine, work.call, (*values, scope)))


async def run_call(engine: AsyncEngine, call: str, values: tuple[object, ...]) -> list[Record]:
    """Runs a call of such a function, which must not be interrupted: wrap it in `finish`."""
    if not isinstance(engine, PooledEngine):
        raise TypeError("open the engine with sql_engine")
    with mapped_errors():
        spare = engine.take_spare()
        if spare is not None:
            try:
                return await spare.driver.fetch(call, *values)
            finally:
                spare.put_back()
        proxy = await engine.raw_connection()
        try:
            return await _driver_of(proxy).fetch(call, *values)
        finally:
            await greenlet_spawn(proxy.close)


def _driver_of(proxy: PoolProxiedConnection) -> PreambleConnection:
    driver = proxy.driver_connection
    if not isinstance(driver, PreambleConnection):
        raise TypeError("open the engine with sql_engine")
    return driver


def _calling(function: str, values: int) -> str:
    places = ", ".join(f"${place}" for place in range(1, values + 1))
    return f"SELECT * FROM {quoted(function)}({places})"  # noqa: S608 - a checked name
