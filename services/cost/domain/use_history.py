"""How a tenant used models, day by day: the ground of recommendations."""

from dataclasses import dataclass
from datetime import date

from services.cost.domain.hold import CostKind
from services.meshkit.content import Usage
from services.meshkit.core.money import NanoUsd


@dataclass(frozen=True, slots=True, kw_only=True)
class DailyUse:
    """Calls of one day, UTC. What was assumed, and what corrected it, is left out."""

    day: date
    calls: int
    usage: Usage
    cost: NanoUsd
    #: Calls within five minutes of the one before.
    warm_calls: int = 0
    #: Calls whose prompt is far longer than is usual here, without a longer answer.
    long_calls: int = 0
    #: Tokens of their prompts beyond twice the usual length.
    long_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """Calls of one model by one agent."""

    kind: CostKind
    provider: str
    model: str
    #: Empty for calls that name no agent.
    agent: str
    #: Only 1 in 20 prompts has fewer tokens.
    short_prompt_tokens: int
    #: In order; days without calls are left out.
    days: tuple[DailyUse, ...]

    @property
    def calls(self) -> int:
        """Number of calls."""
        return sum(day.calls for day in self.days)

    @property
    def usage(self) -> Usage:
        """Tokens in all."""
        total = Usage()
        for day in self.days:
            total += day.usage
        return total
