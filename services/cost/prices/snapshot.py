"""Reads the shipped price table."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from services.cost.domain.price import Price, Rates, Tier
from services.cost.domain.price_table import ShippedPrices

_FILE: Final = Path(__file__).with_name("snapshot.json")


def shipped_prices(file: Path = _FILE) -> ShippedPrices:
    """Reads the list and checks each price against its digest.

    Raises: ValueError: a row was edited by hand or the file is damaged.
    """
    content: Any = json.loads(file.read_text())  # JSON of our own making, checked row by row below
    prices = tuple(_price(row, content["source"]) for row in content["prices"])
    return ShippedPrices(edition=content["edition"], prices=prices)


def _price(row: Any, source: str) -> Price:
    price = Price(
        provider=row["provider"],
        model=row["model"],
        aliases=tuple(row["aliases"]),
        tiers=tuple(Tier(tier[0], Rates(*tier[1:])) for tier in row["tiers"]),
        start=datetime.fromisoformat(row["start"]),
        end=None if row["end"] is None else datetime.fromisoformat(row["end"]),
        source=source,
    )
    if price.digest.hex() != row["digest"]:
        raise ValueError(f"the price of {row['provider']}/{row['model']} does not match its digest; make the file anew")
    return price
