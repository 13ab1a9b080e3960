"""Prices that an earlier release left in force twice, because their names were written in other letters."""

import secrets
from datetime import UTC, datetime

from sqlalchemy import text

from services.cost.domain.price import Price
from services.cost.domain.price_book import PriceBook
from services.cost.domain.price_table import overlaps
from services.cost.storage.price_repository import PriceRepository
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import provision
from services.meshkit.sql.scope import maintenance_scope
from tests.support.money import a_price

JULY, AUGUST, SEPTEMBER = (datetime(2026, month, 1, tzinfo=UTC) for month in (7, 8, 9))
_PRICE = text("""
    INSERT INTO price (digest, provider, model, aliases, start_time, end_time, source, imported)
    VALUES (:digest, :provider, :model, '{}', :start, :end, :source, :imported)""")
_TIER = text("""
    INSERT INTO price_tier SELECT :digest, 0, 1000000, 0, 0, 0, 4000000, 4000000, 0, 0, 0""")


async def test_of_two_prices_for_one_name_the_imported_and_the_newer_one_holds(postgres: str) -> None:
    urls = await provision(postgres, f"comitia_cost_{secrets.token_hex(4)}")
    await migrate("services.cost", urls.migrator, to="0010")
    shipped = a_price(model="gpt-4o-mini")
    imported = a_price(model="GPT-4o-Mini", start=JULY, source="a list", imported=True)
    newer = a_price(model="gpt-4O-mini", start=AUGUST, source="another list", imported=True)
    later = a_price(model="gpt-4o-mini", start=SEPTEMBER, source="a newer release")
    other = a_price(model="gpt-4o")
    before = [shipped, imported, newer, later, other]
    assert overlaps(before)
    async with sql_engine(urls.maintenance, pool_size=1) as engine:
        async with maintenance_scope(engine) as scope:
            for price in before:
                await scope.execute(_PRICE, _row(price))
                await scope.execute(_TIER, {"digest": price.digest})
            await scope.commit()
        await migrate("services.cost", urls.migrator)
        after = await PriceRepository(engine).all()
    assert not overlaps(after)
    assert {one.digest: one.end for one in after} == {
        shipped.digest: JULY,
        imported.digest: AUGUST,
        newer.digest: None,
        later.digest: SEPTEMBER,
        other.digest: None,
    }
    assert PriceBook(after).find("openai", "GPT-4O-MINI", at=SEPTEMBER).digest == newer.digest


def _row(price: Price) -> dict[str, object]:
    names = ("digest", "provider", "model", "start", "end", "source", "imported")
    return {name: getattr(price, name) for name in names}
