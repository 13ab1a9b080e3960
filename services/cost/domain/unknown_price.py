"""What is done with calls of models whose price nobody told us: refused, or held and charged at a stated ceiling."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from services.meshkit.content import Usage
from services.meshkit.core.errors import Invalid
from services.meshkit.core.money import NanoUsd, price_of

#: Highest ceiling: a million dollars for a million tokens. What is above is a mistake.
MAX_CEILING: Final = 10**15


class UnknownPriceRule(IntEnum):
    """What is done with a call whose price is unknown."""

    REFUSE = 1
    #: It passes at the ceiling, and its charge is marked until a price is known.
    FLAG = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownPrice:
    """The rule of a tenant."""

    rule: UnknownPriceRule
    #: Most that a million tokens of whatever class may cost, nano-USD, as the tenant states it; 0: the operator's.
    ceiling: int = 0

    def checked(self, *, least: int) -> "UnknownPrice":
        """Accepts a rule.

        Args:
            least: lowest ceiling that the operator allows.
        Raises: Invalid: a ceiling that is too low or too high, or one that nothing is held at.
        """
        if self.rule is UnknownPriceRule.REFUSE and self.ceiling:
            raise Invalid("ceiling_nano_usd_per_million", "must be 0 where calls without a price are refused")
        if self.ceiling and not least <= self.ceiling <= MAX_CEILING:
            raise Invalid(
                "ceiling_nano_usd_per_million",
                f"must be {least} to {MAX_CEILING} nano-USD, or 0 for the lowest that the operator allows",
            )
        return self

    def ceiling_from(self, least: int) -> int | None:
        """Gives what a million tokens are held and charged at; None: the call is refused.

        Args:
            least: lowest ceiling that the operator allows now; it may have risen since the rule was set.
        """
        return max(self.ceiling, least) if self.rule is UnknownPriceRule.FLAG else None


def at_ceiling(usage: Usage, ceiling: int) -> NanoUsd:
    """Prices tokens of whatever class at a ceiling, nano-USD per million. No usage within a bound ever costs more."""
    return price_of([(usage.total, ceiling)])
