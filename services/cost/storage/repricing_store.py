"""Writes charges at their new price: a reversal and a new entry for each, the hold's price, and its budgets."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from services.cost.domain.changes import Changes
from services.cost.domain.cost_event import CostEvent
from services.cost.domain.hold import Hold
from services.cost.domain.price_book import PriceBook
from services.cost.domain.repricing import Repriced, RepricedBooks, RepricedModel, Repricing, booked, repricing
from services.cost.domain.rollup import Span
from services.cost.storage import statements as sql
from services.cost.storage.one_trips import WRITE_SPENDING
from services.cost.storage.rows import budget_of, counts_of, hold_of
from services.cost.storage.unit_of_work import SpendStore
from services.meshkit.content.usage import USAGE_CLASSES
from services.meshkit.core.errors import Internal, Invalid
from services.meshkit.core.failpoints import failpoint, register
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.once import claim_once, keep_once, keep_progress, resume_once
from services.meshkit.sql.scope import DriverScope, driver_scope, listed_tenants

#: Most charges that one request writes anew.
MOST: Final = 50_000
#: Charges of one transaction: it has their budgets locked for some 0.1 s, in which the tenant spends nothing.
AT_ONCE: Final = 250
#: After each of these transactions but before the next.
BETWEEN_CHARGES: Final = "cost.between_repriced_charges"
register(BETWEEN_CHARGES)

#: Which prices the charges of which models were made with. Each step leaps over all charges of one kind in the index.
_PRICED: Final = """
    WITH RECURSIVE kind AS (
        (SELECT price_digest, model FROM hold
         WHERE tenant_id = $1 AND state IN (3, 5) AND price_digest IS NOT NULL ORDER BY price_digest, model LIMIT 1)
        UNION ALL
        SELECT following.* FROM kind CROSS JOIN LATERAL (
            SELECT price_digest, model FROM hold
            WHERE tenant_id = $1 AND state IN (3, 5) AND price_digest IS NOT NULL
                AND (price_digest, model) > (kind.price_digest, kind.model)
            ORDER BY price_digest, model LIMIT 1) AS following
    )
    SELECT price_digest, model FROM kind"""
_STALE: Final = """
    SELECT h.id FROM unnest($2::bytea[], $3::text[], $4::timestamptz[], $5::timestamptz[])
        AS other (digest, model, since, until)
    JOIN hold AS h ON h.tenant_id = $1 AND h.state IN (3, 5) AND h.price_digest = other.digest
        AND h.model = other.model AND h.created_time >= other.since
        AND h.created_time < coalesce(other.until, 'infinity')
    LIMIT $6"""
#: The same of charges without a price.
_UNPRICED: Final = """
    SELECT DISTINCT provider, model FROM hold WHERE tenant_id = $1 AND ceiling_nano_usd_per_million IS NOT NULL"""
_STALE_UNPRICED: Final = """
    SELECT h.id FROM unnest($2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[])
        AS other (provider, model, since, until)
    JOIN hold AS h ON h.tenant_id = $1 AND h.state IN (3, 5) AND h.ceiling_nano_usd_per_million IS NOT NULL
        AND h.provider = other.provider AND h.model = other.model AND h.created_time >= other.since
        AND h.created_time < coalesce(other.until, 'infinity')
    LIMIT $6"""
_KNOWN_FROM: Final = "SELECT holds_from FROM rollup_mark"
_HOLDS: Final = "SELECT * FROM hold WHERE id = ANY($1::uuid[]) ORDER BY id"
_LOCK_BUDGETS: Final = """
    SELECT * FROM budget WHERE id IN (SELECT DISTINCT unnest(budget_ids) FROM hold WHERE id = ANY($1::uuid[]))
    ORDER BY id FOR UPDATE"""
_HOLD_PRICES: Final = """
    UPDATE hold SET price_digest = item.digest, ceiling_nano_usd_per_million = NULL, charged_nano_usd = item.charged,
        amount_nano_usd = item.amount
    FROM unnest($1::uuid[], $2::bytea[], $3::bigint[], $4::bigint[]) AS item (id, digest, charged, amount)
    WHERE hold.id = item.id"""
_PURPOSE: Final = "kind, provider, model, run_id, path, attempt_group, call_index, agent_name, agent_version, project"
_TOKENS: Final = ", ".join(f"{name}_tokens" for name in USAGE_CLASSES)
_USED: Final = ", ".join(f"used[{place}]" for place in range(1, len(USAGE_CLASSES) + 1))
_ENTRIES: Final = f"""
    INSERT INTO cost_event (id, tenant_id, hold_id, {_PURPOSE}, {_TOKENS}, cost_nano_usd, assumed, reversal,
                            price_digest, note, created_time)
    SELECT item.id, h.tenant_id, h.id, {", ".join(f"h.{name}" for name in _PURPOSE.split(", "))}, {_USED}, item.cost,
           item.assumed, item.reversal, item.digest, $8, $9
    FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[], $5::boolean[], $6::boolean[], $7::bytea[])
        AS item (id, hold_id, tokens, cost, assumed, reversal, digest)
    JOIN hold AS h ON h.id = item.hold_id CROSS JOIN CAST(item.tokens AS bigint[]) AS used"""  # noqa: S608 - constants


class RepricingStore:
    """See `Repricer`."""

    def __init__(self, app: AsyncEngine, *, spending: SpendStore, new_id: Callable[[], UUID]) -> None:
        self._engine = app
        self._spending = spending
        self._new_id = new_id

    async def differences(self, tenant: TenantId, span: Span, book: PriceBook, *, unpriced: bool) -> Repriced:
        """See `Repricer.differences`."""
        found = Repriced()
        async with driver_scope(self._engine, tenant, read_only=True) as scope:
            for some in _portions(await _stale(scope, tenant, span, book, only_unpriced=unpriced)):
                holds = [hold_of(row) for row in await scope.driver.fetch(_HOLDS, some)]
                found = found.with_(repricing(tenant, holds, book))
        return found

    async def apply(
        self, tenant: TenantId, span: Span, book: PriceBook, *, unpriced: bool, note: str, now: datetime
    ) -> Repriced:
        """See `Repricer.apply`."""
        async with driver_scope(self._engine, tenant) as scope:
            # Not committed here: only asks whether all of it was done before.
            await claim_once(scope)
            stale = await _stale(scope, tenant, span, book, only_unpriced=unpriced)
        done = Repriced()
        for some in _portions(stale):
            done = await self._apply(tenant, some, book, done, note=note, now=now)
            await failpoint(BETWEEN_CHARGES)
        async with driver_scope(self._engine, tenant) as scope:
            await claim_once(scope)
            done = _read(await resume_once(scope), done)
            await keep_progress(scope, _written(done))
            await keep_once(scope, done)
            await scope.commit()
        return done

    async def _apply(
        self, tenant: TenantId, stale: list[UUID], book: PriceBook, before: Repriced, *, note: str, now: datetime
    ) -> Repriced:
        """Prices some charges anew; gives what was done `before`, as the last transaction kept it, and this."""
        async with driver_scope(self._engine, tenant) as scope:
            before = _read(await resume_once(scope), before)
            # Budgets first, then holds, each in id order, as everywhere; the budgets of a hold never change.
            budgets = [budget_of(row) for row in await scope.driver.fetch(_LOCK_BUDGETS, stale)]
            done = repricing(tenant, [hold_of(row) for row in await scope.driver.fetch(sql.LOCK_HOLDS, stale)], book)
            books = booked(done, budgets, note=note, now=now, new_id=self._new_id)
            changes = Changes(
                seen_budgets=(),
                seen_holds=(),
                new_holds=(),
                holds=(),
                budgets=books.budgets,
                entries=(),
                alerts=books.alerts,
            )
            if done.steps:
                await self._write(scope, tenant, done, books, changes, note=note, now=now)
            # Others may have priced some anew since they were found.
            all_of_it = before.with_(done)
            await keep_progress(scope, _written(all_of_it))
            await scope.commit()
        self._spending.committed((), changes)
        return all_of_it

    async def _write(
        self,
        scope: DriverScope,
        tenant: TenantId,
        done: Repricing,
        books: RepricedBooks,
        changes: Changes,
        *,
        note: str,
        now: datetime,
    ) -> None:
        values = self._spending.values(changes)
        if not await scope.driver.fetchval(WRITE_SPENDING.call, *values, listed_tenants(tenant)):
            raise Internal("rows of the ledger changed while they were locked")
        await scope.driver.execute(_HOLD_PRICES, *_columns([_hold(after) for _, after in done.steps]))
        await scope.driver.execute(_ENTRIES, *_columns([_entry(entry) for entry in books.entries]), note, now)


async def _stale(
    scope: DriverScope, tenant: TenantId, span: Span, book: PriceBook, *, only_unpriced: bool
) -> list[UUID]:
    """Finds the charges of calls, held within a span, for which the book has another price than they were made with."""
    wrong: list[tuple[object, ...]] = []
    for row in () if only_unpriced else await scope.driver.fetch(_PRICED, tenant):
        price = book.by_digest(row["price_digest"])
        if price is not None:
            spans = _within(span, book.differs(price.digest, price.provider, row["model"]))
            wrong += [(price.digest, row["model"], one.start, one.end) for one in spans]
    unpriced: list[tuple[object, ...]] = []
    for row in await scope.driver.fetch(_UNPRICED, tenant):
        spans = _within(span, book.differs(None, row["provider"], row["model"]))
        unpriced += [(row["provider"], row["model"], one.start, one.end) for one in spans]
    found: list[UUID] = []
    for statement, items in ((_STALE, wrong), (_STALE_UNPRICED, unpriced)):
        if items:
            rows = await scope.driver.fetch(statement, tenant, *_columns(items), MOST + 1)
            found += [row["id"] for row in rows]
    # Read last: what another transaction removed before one of the statements above is told by it.
    known_from = None if only_unpriced else await scope.driver.fetchval(_KNOWN_FROM)
    if known_from is not None and (span.start is None or span.start < known_from):
        raise Invalid(
            "start_time", f"must be {known_from.isoformat()} or later: what calls held before is known no more"
        )
    if len(found) > MOST:
        raise Invalid("end_time", f"takes in more than {MOST} charges that change; take less time at once")
    return found


def _portions(stale: list[UUID]) -> Iterator[list[UUID]]:
    """Cuts charges into those of one transaction each, oldest first: ids ascend with time."""
    ordered = sorted(stale)
    return (ordered[at : at + AT_ONCE] for at in range(0, len(ordered), AT_ONCE))


def _written(done: Repriced) -> bytes:
    return json.dumps([astuple(model) for model in done.models]).encode()


def _read(progress: bytes | None, otherwise: Repriced) -> Repriced:
    """Reads what the transactions of a request did so far."""
    if progress is None:
        return otherwise
    return Repriced(
        tuple(
            RepricedModel(provider=provider, model=model, events=events, before=before, after=after)
            for provider, model, events, before, after in json.loads(progress)
        )
    )


def _within(span: Span, others: Sequence[Span]) -> list[Span]:
    return [both for one in others if not (both := one.within(span)).empty]


def _hold(hold: Hold) -> tuple[object, ...]:
    return (hold.id, hold.price, hold.charged, hold.amount)


def _entry(entry: CostEvent) -> tuple[object, ...]:
    tokens = f"{{{','.join(map(str, counts_of(entry.usage)))}}}"
    return (entry.id, entry.hold, tokens, entry.cost, entry.assumed, entry.reversal, entry.price)


def _columns(rows: Sequence[tuple[object, ...]]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)]
