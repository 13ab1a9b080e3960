"""Replicas of several releases that start in any order: the prices of the latest one stay."""

import secrets
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from itertools import permutations

import pytest
import pytest_asyncio

from services.cost.domain.price import Rates, Tier
from services.cost.domain.price_book import PriceBook
from services.cost.domain.price_table import ShippedPrices
from services.cost.storage.price_repository import PriceRepository
from services.cost.usecases.prices import import_prices
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import provision
from tests.support.money import NOON, a_price

HOUR = timedelta(hours=1)


@pytest_asyncio.fixture
async def table(postgres: str) -> AsyncIterator[PriceRepository]:
    urls = await provision(postgres, f"comitia_cost_{secrets.token_hex(4)}")
    await migrate("services.cost", urls.migrator)
    async with sql_engine(urls.maintenance, pool_size=1) as engine:
        yield PriceRepository(engine)


def a_list(edition: int, **rates: int) -> ShippedPrices:
    """Gives a list of a release: one price for each model, per million tokens."""
    prices = [
        a_price(model=model, tiers=(Tier(0, Rates(input=rate, output=rate)),), source=f"release {edition}")
        for model, rate in rates.items()
    ]
    return ShippedPrices(edition=edition, prices=tuple(prices))


async def rates(table: PriceRepository, at: datetime) -> dict[str, int]:
    book = PriceBook(known := await table.all())
    return {
        price.model: book.find(price.provider, price.model, at=at).tiers[0].rates.input
        for price in known
        if price.holds_at(at)
    }


async def test_an_older_replica_that_starts_last_ends_no_newer_price(table: PriceRepository) -> None:
    older, newer = a_list(1, big=100, gone=7), a_list(2, big=90, small=5)
    for hours, shipped in enumerate((older, newer, older)):
        await import_prices(table, shipped, free_providers=(), now=NOON + hours * HOUR)
    assert await rates(table, NOON + 3 * HOUR) == {"big": 90, "small": 5, "gone": 7}
    assert await import_prices(table, newer, free_providers=(), now=NOON + 4 * HOUR) == 0


@pytest.mark.parametrize("order", list(permutations((1, 2, 3))))
async def test_in_whatever_order_they_start_the_latest_prices_hold(
    table: PriceRepository, order: tuple[int, ...]
) -> None:
    lists = {1: a_list(1, big=100), 2: a_list(2, big=90, small=5), 3: a_list(3, big=100, small=6)}
    for hours, edition in enumerate(order):
        await import_prices(table, lists[edition], free_providers=(), now=NOON + hours * HOUR)
    assert await rates(table, NOON + 5 * HOUR) == {"big": 100, "small": 6}


async def test_what_an_older_replica_runs_itself_is_free_all_the_same(table: PriceRepository) -> None:
    await import_prices(table, a_list(2, big=90), free_providers=("local",), now=NOON)
    assert await import_prices(table, a_list(1, big=100), free_providers=("local", "stub"), now=NOON + HOUR) == 1
    assert PriceBook(await table.all()).find("stub", "any", at=NOON + HOUR).tiers[0].rates == Rates()
