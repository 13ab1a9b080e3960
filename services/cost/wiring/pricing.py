"""Puts together what prices calls: the table in memory, imports, and what is done without a price."""

from dataclasses import dataclass
from functools import partial

from comitia.cost.v1.pricing_service_pb2_grpc import add_PricingServiceServicer_to_server
from services.cost.domain.unknown_price import UnknownPriceRule
from services.cost.prices.snapshot import shipped_prices
from services.cost.storage.price_repository import PriceImports, PriceRepository
from services.cost.storage.unknown_price_store import UnknownPriceStore
from services.cost.transport.pricing_servicer import PricingServicer
from services.cost.usecases.import_prices import ImportPrices
from services.cost.usecases.prices import CurrentPrices, import_prices
from services.cost.usecases.unknown_prices import UnknownPrices
from services.cost.wiring.ground import Ground
from services.meshkit.grpc.server import Registration


@dataclass(frozen=True, slots=True, kw_only=True)
class Pricing:
    """What gives prices. `current` is background work, too."""

    registration: Registration
    current: CurrentPrices
    unknown: UnknownPrices


async def pricing(on: Ground) -> Pricing:
    """Imports the shipped prices and builds it."""
    settings = on.settings
    table = PriceRepository(on.maintenance)
    await import_prices(table, shipped_prices(), free_providers=settings.free_providers, now=on.clock.now())
    current = CurrentPrices(table, clock=on.clock, refresh_seconds=settings.price_refresh_seconds)
    await current.refresh()
    unknown = UnknownPrices(
        UnknownPriceStore(on.app),
        default=UnknownPriceRule[settings.unknown_price.upper()],
        least=settings.unknown_price_least_ceiling_nano_usd_per_million,
    )
    servicer = PricingServicer(
        prices=current,
        import_prices=ImportPrices(importer=PriceImports(on.app), prices=current, clock=on.clock),
        unknown=unknown,
        clock=on.clock,
    )
    return Pricing(
        registration=partial(add_PricingServiceServicer_to_server, servicer), current=current, unknown=unknown
    )
