"""Imports a price list that an operator gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.cost.domain.price import Price
from services.cost.domain.price_list import read_list
from services.cost.domain.price_rows import ListFormat
from services.cost.domain.price_table import Supersession, supersession
from services.cost.usecases.prices import CurrentPrices
from services.meshkit.core.audit import note
from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import TenantId
from services.meshkit.telemetry.logs import logger

log = logger(__name__)


class PriceImporter(Protocol):
    """Writes prices that take the place of others."""

    async def supersede(self, tenant: TenantId, read: Callable[[Sequence[Price]], Sequence[Price]]) -> Supersession:
        """Adds prices and ends those they take the place of, in one transaction of the operator's tenant.

        Args:
            read: reads the list, given the table as nobody else changes it meanwhile.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOrder:
    """A list to import."""

    content: str
    form: ListFormat
    #: Where it comes from, as the operator says.
    source: str
    #: True where the operator says that prices far from what their models cost are right.
    unit_confirmed: bool = False


class ImportPrices:
    """Checks a list as a whole, and puts it in force from the moments it names. Calls in progress keep their price."""

    def __init__(self, *, importer: PriceImporter, prices: CurrentPrices, clock: Clock) -> None:
        self._importer = importer
        self._prices = prices
        self._clock = clock

    async def show(self, order: ImportOrder) -> Supersession:
        """Tells what a list would change, and changes nothing. Raises: PriceListWrong."""
        await self._prices.refresh()
        known = self._prices.known
        return supersession(known, self._read(order, known))

    async def __call__(self, tenant: TenantId, order: ImportOrder) -> Supersession:
        """Raises: PriceListWrong: nothing was changed."""

        def read(known: Sequence[Price]) -> list[Price]:
            prices = self._read(order, known)
            note(target="prices", details={"source": order.source, "prices": len(prices)})
            return prices

        change = await self._importer.supersede(tenant, read)
        await self._prices.refresh()
        log.info("prices imported", added=len(change.renewal.added), ended=len(change.renewal.ends))
        return change

    def _read(self, order: ImportOrder, known: Sequence[Price]) -> list[Price]:
        # Apart from the names of what is shipped, so that no digest is the same.
        source = f"imported: {order.source}"
        return read_list(
            order.content,
            order.form,
            source=source,
            known=known,
            now=self._clock.now(),
            unit_confirmed=order.unit_confirmed,
        )
