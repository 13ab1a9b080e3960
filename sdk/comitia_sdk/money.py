"""Money as people read it."""

from decimal import Decimal

#: Nano-USD in one dollar.
NANO_PER_USD = 1_000_000_000


def usd(nano_usd: int) -> Decimal:
    """Gives an amount of nano-USD in dollars, exactly."""
    return Decimal(nano_usd) / NANO_PER_USD


def nano_usd(dollars: Decimal | str | int) -> int:
    """Gives an amount in dollars as nano-USD, rounded up to the next one."""
    return int((Decimal(dollars) * NANO_PER_USD).to_integral_value(rounding="ROUND_CEILING"))
