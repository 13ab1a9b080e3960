"""Sums as whole numbers of 64 bits, whatever is added."""

from typing import Final

#: Largest and least number that a column and an answer hold.
MOST: Final = 2**63 - 1


def whole(expression: str) -> str:
    """Writes SQL that stops a sum at what a bigint holds, for Postgres raises where it would go beyond."""
    return f"least(greatest({expression}, -{MOST}), {MOST})::bigint"


def clamped(number: int) -> int:
    """Gives the number, or the nearest that a bigint holds."""
    return max(-MOST, min(MOST, number))
