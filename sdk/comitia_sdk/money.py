"""Money as people read it."""

from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Final

#: Nano-USD in one dollar.
NANO_PER_USD: Final = 1_000_000_000
_BEYOND: Final = 2**63


def usd(nano_usd: int) -> Decimal:
    """Gives an amount of nano-USD in dollars, exactly."""
    return Decimal(nano_usd) / NANO_PER_USD


def nano_usd(dollars: Decimal | str | int) -> int:
    """Gives an amount in dollars as nano-USD, rounded up to the next one.

    Raises: ValueError: no amount, negative, or beyond what 64 bits hold (about 9.2 billion dollars).
    """
    sentence = f"{dollars!r} is no amount in dollars, such as 25.00"
    try:
        amount = Decimal(dollars) * NANO_PER_USD
    except InvalidOperation as error:
        raise ValueError(sentence) from error
    if not amount.is_finite() or not 0 <= amount < _BEYOND:
        raise ValueError(sentence)
    return int(amount.to_integral_value(rounding=ROUND_CEILING))
