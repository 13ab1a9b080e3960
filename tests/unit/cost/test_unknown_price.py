"""Ceilings for models whose price nobody told us."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cost.domain.price import Price, Rates, Tier
from services.cost.domain.unknown_price import MAX_CEILING, UnknownPrice, UnknownPriceRule, at_ceiling
from services.cost.prices.snapshot import shipped_prices
from services.cost.settings import CostSettings
from services.cost.usecases.unknown_prices import UnknownPrices
from services.meshkit.content import Usage
from services.meshkit.content.usage import USAGE_CLASSES
from services.meshkit.core.errors import Invalid
from tests.support.money import ANNA, BERT
from tests.support.unknown_prices import MemoryUnknownPriceRules

REFUSE, FLAG = UnknownPriceRule.REFUSE, UnknownPriceRule.FLAG

counts = st.integers(0, 10**6)
usages = st.builds(Usage, **dict.fromkeys(USAGE_CLASSES, counts))


@given(bound=usages, ceiling=st.integers(1, MAX_CEILING), data=st.data())
def test_no_usage_within_the_bound_costs_more_than_is_held_while_no_price_is_above_the_ceiling(
    bound: Usage, ceiling: int, data: st.DataObject
) -> None:
    used = Usage(**{name: data.draw(st.integers(0, getattr(bound, name))) for name in USAGE_CLASSES})
    rates = Rates(**{name: data.draw(st.integers(0, ceiling)) for name in USAGE_CLASSES})
    real = Price(provider="openai", model="new", tiers=(Tier(0, rates),), source="a test")
    assert real.charge(used) <= at_ceiling(used, ceiling) <= at_ceiling(bound, ceiling)


def test_the_lowest_ceiling_that_ships_is_above_every_price_that_ships() -> None:
    dearest = max(
        max(tier.rates.dearest_prompt, tier.rates.dearest_answer)
        for price in shipped_prices().prices
        for tier in price.tiers
    )
    least = CostSettings.model_fields["unknown_price_least_ceiling_nano_usd_per_million"].default
    assert least >= dearest


@pytest.mark.parametrize(
    "wrong",
    [
        UnknownPrice(rule=FLAG, ceiling=99),
        UnknownPrice(rule=FLAG, ceiling=-1),
        UnknownPrice(rule=FLAG, ceiling=MAX_CEILING + 1),
        UnknownPrice(rule=REFUSE, ceiling=100),
    ],
)
def test_a_ceiling_that_is_not_allowed_is_refused(wrong: UnknownPrice) -> None:
    with pytest.raises(Invalid) as refusal:
        wrong.checked(least=100)
    assert refusal.value.field == "ceiling_nano_usd_per_million"


async def test_a_tenant_without_a_rule_has_that_of_the_settings() -> None:
    rules = MemoryUnknownPriceRules()
    rules.rules[BERT] = UnknownPrice(rule=REFUSE)
    unknown = UnknownPrices(rules, default=FLAG, least=7)
    assert await unknown.ceilings([ANNA, BERT]) == {ANNA: 7}


async def test_a_ceiling_follows_the_lowest_that_the_operator_allows_by_now() -> None:
    rules = MemoryUnknownPriceRules()
    await UnknownPrices(rules, default=REFUSE, least=5).set(ANNA, UnknownPrice(rule=FLAG, ceiling=10))
    assert await UnknownPrices(rules, default=REFUSE, least=5).ceilings([ANNA]) == {ANNA: 10}
    assert await UnknownPrices(rules, default=REFUSE, least=20).ceilings([ANNA]) == {ANNA: 20}
