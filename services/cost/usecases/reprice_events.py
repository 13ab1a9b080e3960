"""Prices charges of the past by the table of today."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.cost.domain.price_book import PriceBook
from services.cost.domain.repricing import Repriced
from services.cost.domain.rollup import Span
from services.cost.usecases.prices import CurrentPrices
from services.meshkit.core.audit import note
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import TenantId
from services.meshkit.telemetry.logs import logger

log = logger(__name__)


class Repricer(Protocol):
    """Finds charges whose price has changed since, and writes them anew."""

    async def differences(self, tenant: TenantId, span: Span, book: PriceBook) -> Repriced:
        """Tells what would change. Raises: Invalid: too many charges."""
        ...

    async def apply(self, tenant: TenantId, span: Span, book: PriceBook, *, note: str, now: datetime) -> Repriced:
        """Writes it in short transactions, between which others spend; a repeat goes on where it was broken off.

        Returns: what all of them did, those of the same request before a break included.
        Raises: Invalid: too many charges.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RepriceOrder:
    """Which charges to price anew."""

    start: datetime
    end: datetime | None
    note: str


class RepriceEvents:
    """Shows the difference first, and writes it when told so."""

    def __init__(self, *, repricer: Repricer, prices: CurrentPrices, clock: Clock) -> None:
        self._repricer = repricer
        self._prices = prices
        self._clock = clock

    async def show(self, tenant: TenantId, order: RepriceOrder) -> Repriced:
        """Tells what would change, and changes nothing."""
        await self._prices.refresh()
        return await self._repricer.differences(tenant, Span(order.start, order.end), self._prices.book)

    async def __call__(self, tenant: TenantId, order: RepriceOrder) -> Repriced:
        """Takes charges back and writes them at their new price; budgets follow."""
        await self._prices.refresh()
        span = Span(order.start, order.end)
        end = order.end.isoformat() if order.end else ""
        note(target="charges", details={"start_time": order.start.isoformat(), "end_time": end, "note": order.note})
        why = f"re-priced: {order.note}" if order.note else "re-priced"
        done = await self._repricer.apply(tenant, span, self._prices.book, note=why, now=self._clock.now())
        if done.events:
            log.info("charges re-priced", charges=done.events)
        return done
