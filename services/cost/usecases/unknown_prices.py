"""What becomes of calls whose price is unknown, tenant by tenant."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from services.cost.domain.unknown_price import UnknownPrice, UnknownPriceRule
from services.meshkit.core.audit import note
from services.meshkit.core.identity import TenantId


class UnknownPriceRules(Protocol):
    """Keeps the rules that tenants set."""

    async def of(self, tenants: Iterable[TenantId]) -> Mapping[TenantId, UnknownPrice]:
        """Gives the rules of those that have set one."""
        ...

    async def put(self, tenant: TenantId, rule: UnknownPrice) -> UnknownPrice:
        """Sets a rule, with the audit entry and the kept answer."""
        ...


class UnknownPrices:
    """Reads and sets the rules. They are read anew for each call without a price, so one that is set holds at once.

    Args:
        default: rule of tenants that have set none.
        least: lowest ceiling that the operator allows, nano-USD per million tokens.
    """

    def __init__(self, rules: UnknownPriceRules, *, default: UnknownPriceRule, least: int) -> None:
        self._rules = rules
        self._default = UnknownPrice(rule=default)
        self._least = least

    @property
    def least(self) -> int:
        """Lowest ceiling that the operator allows."""
        return self._least

    async def of(self, tenant: TenantId) -> UnknownPrice:
        """Gives the rule that holds for a tenant."""
        return (await self._rules.of((tenant,))).get(tenant, self._default)

    async def ceilings(self, tenants: Iterable[TenantId]) -> dict[TenantId, int]:
        """Gives what a million tokens without a price are held at; tenants where these are refused are left out."""
        some = frozenset(tenants)
        rules = await self._rules.of(some)
        found = {tenant: rules.get(tenant, self._default).ceiling_from(self._least) for tenant in some}
        return {tenant: ceiling for tenant, ceiling in found.items() if ceiling is not None}

    async def set(self, tenant: TenantId, wanted: UnknownPrice) -> UnknownPrice:
        """Sets a rule. Raises: Invalid: its ceiling is not allowed."""
        rule = wanted.checked(least=self._least)
        details = {"rule": rule.rule.name.lower(), "ceiling_nano_usd_per_million": rule.ceiling}
        note(target="unknown prices", details=details)
        return await self._rules.put(tenant, rule)
