"""Integer money: one nano-USD is a billionth of a dollar. No float ever holds an amount."""

from typing import Final, NewType

NanoUsd = NewType("NanoUsd", int)

#: Nano-USD in one dollar.
NANO_PER_USD: Final = 1_000_000_000
#: Prices are integers per this many tokens.
TOKENS_PER_PRICE: Final = 1_000_000
#: Largest amount that any field or column carries: what a signed 64-bit integer holds.
MAX_NANO_USD: Final = NanoUsd(2**63 - 1)


def price_of(tokens_and_prices: list[tuple[int, int]]) -> NanoUsd:
    """Adds tokens times price and rounds up once.

    Args:
        tokens_and_prices: pairs of a token count (>= 0) and a price in nano-USD per million tokens (>= 0).
    """
    total = sum(tokens * price for tokens, price in tokens_and_prices)
    return NanoUsd(-(-total // TOKENS_PER_PRICE))


def format_usd(amount: NanoUsd | int) -> str:
    """Writes an amount in dollars without losing digits: `$0.000123` for 123,000 nano-USD."""
    sign = "-" if amount < 0 else ""
    dollars, rest = divmod(abs(amount), NANO_PER_USD)
    digits = f"{rest:09d}".rstrip("0")
    return f"{sign}${dollars}.{digits:0<2}"
