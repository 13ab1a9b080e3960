"""Money as people read it."""

from decimal import ROUND_DOWN, Decimal, InvalidOperation
from typing import Final

#: Nano-USD in one dollar.
NANO_PER_USD: Final = 1_000_000_000
#: Largest amount that the mesh takes, nano-USD.
MOST: Final = 2**62
_FINEST: Final = Decimal(1) / NANO_PER_USD


def usd(nano_usd: int) -> Decimal:
    """Gives an amount of nano-USD in dollars, exactly."""
    return Decimal(nano_usd) / NANO_PER_USD


def nano_usd(dollars: Decimal | str | int) -> int:
    """Gives an amount in dollars as nano-USD, exactly.

    Raises: ValueError: no amount, negative, finer than a nano-USD, or more than the mesh takes (4.6 billion dollars).
    """
    try:
        amount = Decimal(dollars)
    except InvalidOperation as error:
        raise ValueError(f"{dollars!r} is no amount in dollars, such as 25.00") from error
    if not amount.is_finite() or amount < 0:
        raise ValueError(f"{dollars!r} is no amount in dollars, such as 25.00")
    if amount > usd(MOST):
        raise ValueError(f"{dollars!r} is too large an amount: the most is {usd(MOST)} dollars")
    whole = amount.quantize(_FINEST, rounding=ROUND_DOWN)
    if whole != amount:
        raise ValueError(f"{dollars!r} is too fine an amount: give at most 9 digits after the point")
    return int(whole * NANO_PER_USD)
