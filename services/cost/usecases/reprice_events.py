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

    async def differences(self, tenant: TenantId, span: Span, book: PriceBook, *, unpriced: bool) -> Repriced:
        """Tells what would change.

        Args:
            unpriced: take charges at a ceiling only; those are all known, however old.
        Raises: Invalid: too many charges, or a time of which holds are gone.
        """
        ...

    async def apply(
        self, tenant: TenantId, span: Span, book: PriceBook, *, unpriced: bool, note: str, now: datetime
    ) -> Repriced:
        """Writes it in short transactions, between which others spend; a repeat goes on where it was broken off.

        Returns: what all of them did, those of the same request before a break included.
        Raises: what `differences` raises.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RepriceOrder:
    """Which charges to price anew."""

    start: datetime
    end: datetime | None
    note: str
    #: Only charges at a ceiling.
    unpriced: bool = False


class RepriceEvents:
    """Shows the difference first, and writes it when told so."""

    def __init__(self, *, repricer: Repricer, prices: CurrentPrices, clock: Clock) -> None:
        self._repricer = repricer
        self._prices = prices
        self._clock = clock

    async def show(self, tenant: TenantId, order: RepriceOrder) -> Repriced:
        """Tells what would change, and changes nothing."""
        await self._prices.refresh()
        span = Span(order.start, order.end)
        return await self._repricer.differences(tenant, span, self._prices.book, unpriced=order.unpriced)

    async def __call__(self, tenant: TenantId, order: RepriceOrder) -> Repriced:
        """Takes charges back and writes them at their new price; budgets follow."""
        await self._prices.refresh()
        span = Span(order.start, order.end)
        end = order.end.isoformat() if order.end else ""
        only = {"unpriced": True} if order.unpriced else {}
        note(
            target="charges",
            details={"start_time": order.start.isoformat(), "end_time": end, "note": order.note, **only},
        )
        why = f"re-priced: {order.note}" if order.note else "re-priced"
        done = await self._repricer.apply(
            tenant, span, self._prices.book, unpriced=order.unpriced, note=why, now=self._clock.now()
        )
        if done.events:
            log.info("charges re-priced", charges=done.events)
        return done
