"""Keeps the price table."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import RowMapping, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from services.cost.domain.price import Price, Rates, Tier
from services.cost.domain.price_table import Renewal, ShippedPrices, Supersession, overlaps, renewal, supersession
from services.cost.storage.tables import PRICE, PRICE_EDITION, PRICE_TIER
from services.meshkit.content.usage import USAGE_CLASSES
from services.meshkit.core.errors import Internal
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.once import claim_once, keep_once
from services.meshkit.sql.scope import Scope, maintenance_scope, tenant_scope

#: One replica at a time brings the table up to date.
_LOCK: Final = text("SELECT pg_advisory_xact_lock(7263911)")


class PriceRepository:
    """The price table, which belongs to no tenant. The maintenance role changes it; no row is ever deleted."""

    def __init__(self, maintenance: AsyncEngine) -> None:
        self._engine = maintenance

    async def all(self) -> list[Price]:
        """See `PriceStore.all`."""
        async with maintenance_scope(self._engine, read_only=True) as scope:
            return await _read(scope)

    async def replace_current(self, shipped: ShippedPrices, free: Sequence[Price], *, now: datetime) -> tuple[int, int]:
        """See `PriceStore.replace_current`."""
        async with maintenance_scope(self._engine) as scope:
            await scope.execute(_LOCK)
            edition = (await scope.execute(select(PRICE_EDITION.c.edition))).scalar_one()
            listed = [*(shipped.prices if shipped.edition >= edition else ()), *free]
            known = await _read(scope)
            change = renewal(known, listed, now=now)
            await _write(scope, known, change)
            if shipped.edition > edition:
                edition = shipped.edition
                await scope.execute(update(PRICE_EDITION).values(edition=edition))
            await scope.commit()
        return len(change.added), edition


class PriceImports:
    """Writes what operators import, with the audit entry and the kept answer."""

    def __init__(self, app: AsyncEngine) -> None:
        self._engine = app

    async def supersede(self, tenant: TenantId, read: Callable[[Sequence[Price]], Sequence[Price]]) -> Supersession:
        """See `PriceImporter.supersede`."""
        async with tenant_scope(self._engine, tenant) as scope:
            await claim_once(scope)
            await scope.execute(_LOCK)
            known = await _read(scope)
            change = supersession(known, read(known))
            await _write(scope, known, change.renewal)
            await keep_once(scope, change)
            await scope.commit()
        return change


async def _write(scope: Scope, known: Sequence[Price], change: Renewal) -> None:
    # Of two prices for one name the wrong one would hold for somebody, so nothing is written that leaves two.
    if twice := overlaps(change.of(known)) - overlaps(known):
        raise Internal("a price list leaves two prices for one name", names=sorted(map("/".join, twice))[:10])
    for digest, end in change.ends.items():
        await scope.execute(update(PRICE).where(PRICE.c.digest == digest).values(end_time=end))
    if change.added:
        await scope.execute(PRICE.insert(), [_row(price) for price in change.added])
        await scope.execute(PRICE_TIER.insert(), [row for price in change.added for row in _tier_rows(price)])


async def _read(scope: Scope) -> list[Price]:
    tiers: dict[bytes, list[Tier]] = {}
    for row in (await scope.execute(select(PRICE_TIER).order_by(PRICE_TIER.c.min_prompt_tokens))).mappings():
        rates = Rates(*(int(row[f"{name}_nano_usd_per_million"]) for name in USAGE_CLASSES))
        tiers.setdefault(row["digest"], []).append(Tier(row["min_prompt_tokens"], rates))
    rows = (await scope.execute(select(PRICE))).mappings().all()
    return [_price(row, tiers[row["digest"]]) for row in rows]


def _row(price: Price) -> dict[str, object]:
    return {
        "digest": price.digest,
        "provider": price.provider,
        "model": price.model,
        "aliases": list(price.aliases),
        "start_time": price.start,
        "end_time": price.end,
        "source": price.source,
        "imported": price.imported,
    }


def _tier_rows(price: Price) -> list[dict[str, object]]:
    return [
        {
            "digest": price.digest,
            "min_prompt_tokens": tier.min_prompt_tokens,
            **{f"{name}_nano_usd_per_million": rate for name, rate in zip(USAGE_CLASSES, tier.rates.each, strict=True)},
        }
        for tier in price.tiers
    ]


def _price(row: RowMapping, tiers: Sequence[Tier]) -> Price:
    price = Price(
        provider=row["provider"],
        model=row["model"],
        aliases=tuple(row["aliases"]),
        tiers=tuple(tiers),
        start=row["start_time"],
        end=row["end_time"],
        source=row["source"],
        imported=row["imported"],
    )
    if price.digest != row["digest"]:
        raise Internal(
            "a row of the price table does not match its digest; it was changed by hand",
            provider=price.provider,
            model=price.model,
        )
    return price
