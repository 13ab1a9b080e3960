"""What is done with calls of models whose price is unknown, in memory."""

from collections.abc import Iterable

from services.cost.domain.unknown_price import UnknownPrice, UnknownPriceRule
from services.cost.usecases.unknown_prices import UnknownPrices
from services.meshkit.core.identity import TenantId


class MemoryUnknownPriceRules:
    """Rules of tenants."""

    def __init__(self) -> None:
        self.rules: dict[TenantId, UnknownPrice] = {}

    async def of(self, tenants: Iterable[TenantId]) -> dict[TenantId, UnknownPrice]:
        return {tenant: self.rules[tenant] for tenant in tenants if tenant in self.rules}

    async def put(self, tenant: TenantId, rule: UnknownPrice) -> UnknownPrice:
        self.rules[tenant] = rule
        return rule


def refused_unknown_prices() -> UnknownPrices:
    """Refuses them, as an installation does unless told otherwise."""
    return UnknownPrices(MemoryUnknownPriceRules(), default=UnknownPriceRule.REFUSE, least=1)
