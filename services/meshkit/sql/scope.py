"""Transactions that see one tenant (or the tenants of one batch) and nothing else.

A request's transaction is three round trips: BEGIN with its tenant setting, the statement, COMMIT. In the call of a
control-plane mutation the audit entry travels with the COMMIT.
"""

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID

from asyncpg import InterfaceError, PostgresError
from asyncpg.transaction import Transaction
from sqlalchemy import PoolProxiedConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.util import greenlet_spawn

from services.meshkit.core.audit import AuditDraft, pending_draft
from services.meshkit.core.failpoints import failpoint, register
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.audit import AuditOutcome, adding
from services.meshkit.sql.connection import PreambleConnection
from services.meshkit.sql.errors import mapped_errors
from services.meshkit.sql.finish import finish

#: Most tenants that one batch may touch.
MAX_TENANTS: Final = 1_000
#: Has the statements of a transaction planned for their values: a plan for any values that is made while a table is
#: empty would scan it for ever after.
PLANNED_EACH_TIME: Final = "set_config('plan_cache_mode', 'force_custom_plan', true)"
#: Before the audit entry and the COMMIT that makes it and its mutation true; they travel together.
BEFORE_COMMIT: Final = "audit.before_commit"

register(BEFORE_COMMIT)


class Scope(AsyncConnection):
    """A connection inside one transaction. `commit` is explicit and, once begun, is not interrupted."""

    __slots__ = ("_audited",)

    def __init__(self, engine: AsyncEngine, *, audited: bool) -> None:
        super().__init__(engine)
        self._audited = audited

    async def commit(self) -> None:
        """Commits; a caller that is cancelled meanwhile is told after the commit has ended.

        The first commit of an audited call writes its audit entry, so the scope must see the caller's own tenant too.
        The scope has no tenant afterwards: a further statement on a tenant's table fails. Open a new scope.
        """
        draft = pending_draft() if self._audited else None
        # A scope in which nothing was asked has no transaction in the database, and changed nothing.
        begun = draft is not None and self.driver.is_in_transaction()
        await finish(self._commit_with(draft) if draft is not None and begun else super().commit())

    async def _commit_with(self, draft: AuditDraft) -> None:
        self.driver.farewell = adding(draft, AuditOutcome.SUCCEEDED)
        await failpoint(BEFORE_COMMIT)
        await super().commit()
        draft.written = True

    @property
    def driver(self) -> PreambleConnection:
        """The asyncpg connection underneath, for the few statements that Core cannot say."""
        proxy = self.sync_connection.connection if self.sync_connection is not None else None
        driver = proxy.driver_connection if proxy is not None else None
        if not isinstance(driver, PreambleConnection):
            raise TypeError("open the engine with sql_engine")
        return driver


@asynccontextmanager
async def tenant_scope(
    engine: AsyncEngine,
    tenants: TenantId | Iterable[TenantId],
    *,
    read_only: bool = False,
    audited: bool = True,
) -> AsyncGenerator[Scope]:
    """Opens a transaction that sees the rows of these tenants only.

    Leaving without `await scope.commit()` rolls back. It begins with the first statement: an unused scope is free.

    Args:
        engine: of the `app` role.
        tenants: from verified identities; one for a request, 1 to 1,000 for a batch.
        audited: False for side work of a call, whose commit is not the mutation that the call is about.
    Raises: Unavailable: Postgres is away. DatabaseBusy: no free connection. TransactionConflict: redo the step.
    """
    async with _scope(engine, _preamble(tenants, read_only=read_only), audited=audited) as scope:
        yield scope


@asynccontextmanager
async def maintenance_scope(engine: AsyncEngine, *, read_only: bool = False) -> AsyncGenerator[Scope]:
    """Opens a transaction for background work over all tenants; the engine's role must be `maintenance`.

    With an engine of the `app` role every statement on a tenant's table fails. Leaving without commit rolls back.
    """
    async with _scope(engine, _preamble(None, read_only=read_only), audited=False) as scope:
        yield scope


class DriverScope:
    """One transaction on asyncpg itself: half the CPU of Core. For hot paths with a handful of fixed statements."""

    def __init__(self, driver: PreambleConnection, transaction: Transaction, *, audited: bool) -> None:
        self.driver = driver
        self._transaction = transaction
        self._audited = audited
        self._open = True

    async def commit(self) -> None:
        """Commits; see `Scope.commit`."""
        draft = pending_draft() if self._audited else None
        await finish(self._commit(draft))

    async def _commit(self, draft: AuditDraft | None) -> None:
        if draft is not None:
            self.driver.farewell = adding(draft, AuditOutcome.SUCCEEDED)
            await failpoint(BEFORE_COMMIT)
        self._open = False
        await self._transaction.commit()
        if draft is not None:
            draft.written = True

    async def close(self, *, started: bool) -> bool:
        """Rolls back what was not committed.

        Returns: False when the connection's state is not certain, as after a BEGIN that was cancelled; it must go.
        """
        if not started or self.driver.is_closed():
            return False
        if self._open:
            self._open = False
            try:
                await self._transaction.rollback()
            except (InterfaceError, PostgresError, OSError):
                return False
        return not self.driver.is_in_transaction()


@asynccontextmanager
async def driver_scope(
    engine: AsyncEngine, tenants: TenantId | Iterable[TenantId] | None, *, read_only: bool = False
) -> AsyncGenerator[DriverScope]:
    """Opens a transaction like `tenant_scope`, or like `maintenance_scope` with None, without Core in between.

    Statements go to `scope.driver`, with `$1` parameters. Groups: `INSERT … SELECT FROM unnest($1::uuid[], …)`.
    """
    with mapped_errors():
        proxy = await engine.raw_connection()
        try:
            driver = proxy.driver_connection
            if not isinstance(driver, PreambleConnection):
                raise TypeError("open the engine with sql_engine")
            driver.preamble = _preamble(tenants, read_only=False)
            transaction = driver.transaction(readonly=read_only)
            scope = DriverScope(driver, transaction, audited=tenants is not None)
            started = False
            try:
                await transaction.start()
                started = True
                yield scope
            finally:
                driver.preamble = driver.farewell = ""
                await finish(_leave(scope, proxy, started=started))
        finally:
            await finish(greenlet_spawn(proxy.close))


async def _leave(scope: DriverScope, proxy: PoolProxiedConnection, *, started: bool) -> None:
    """Rolls back, and throws away a connection that could carry its transaction to the next caller."""
    if not await scope.close(started=started):
        await greenlet_spawn(proxy.invalidate)


@asynccontextmanager
async def _scope(engine: AsyncEngine, preamble: str, *, audited: bool) -> AsyncGenerator[Scope]:
    with mapped_errors():
        scope = Scope(engine, audited=audited)
        async with scope:
            driver = scope.driver
            driver.preamble = preamble
            try:
                yield scope
            finally:
                driver.preamble = driver.farewell = ""


def _preamble(tenants: TenantId | Iterable[TenantId] | None, *, read_only: bool) -> str:
    """Writes the settings. Simple queries take no parameters; the text is made of UUIDs only, which cannot quote."""
    settings = PLANNED_EACH_TIME
    if tenants is not None:
        settings = f"set_config('app.tenants','{listed_tenants(tenants)}',true),{settings}"
    return f"SET TRANSACTION READ ONLY;SELECT {settings}" if read_only else f"SELECT {settings}"


def listed_tenants(tenants: TenantId | Iterable[TenantId]) -> str:
    """Writes tenants as the setting `app.tenants` wants them: `{uuid,uuid}`.

    Raises: ValueError: not 1 to 1,000.
    """
    some = (tenants,) if isinstance(tenants, UUID) else tuple(tenants)
    if not 1 <= len(some) <= MAX_TENANTS:
        raise ValueError(f"a scope is for 1 to {MAX_TENANTS} tenants, not {len(some)}")
    return f"{{{','.join(str(UUID(int=tenant.int)) for tenant in some)}}}"
