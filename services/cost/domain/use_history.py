"""How a tenant used models, day by day: the ground of recommendations."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final, NamedTuple

from services.cost.domain.hold import CostKind
from services.meshkit.content import Usage
from services.meshkit.core.money import NanoUsd

#: Of prompts, in percent.
_SHORT: Final = 5
_USUAL: Final = 50
#: A prompt is long when it is over so many times the usual length, and that much longer for its answer, too.
_LONG: Final = 3
#: Steps of a quarter of an octave that are more than three times apart, wherever in its step a call lies.
_LONG_STEPS: Final = 8


class CallShape(NamedTuple):
    """How many calls of a day had prompts of about one length, with answers of about one length."""

    #: The quarter of an octave that the tokens of the prompt fall into: 0 from 1 token on, 4 from 2, 8 from 4.
    prompt_step: int
    #: Likewise for tokens of the prompt per token of the answer; below 0 where the answer is longer.
    ratio_step: int
    calls: int
    #: Tokens of their prompts in all.
    prompt_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedDay:
    """Calls of one model by one agent on one day, as they are counted once the day is over."""

    day: date
    calls: int
    usage: Usage
    cost: NanoUsd
    warm_calls: int
    shapes: tuple[CallShape, ...]


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


def use_of(*, kind: CostKind, provider: str, model: str, agent: str, days: Sequence[UsedDay]) -> Use:
    """Tells the long prompts of each day from those that are usual over all of them.

    Lengths are known to a fifth: calls of one shape count with their mean.
    """
    calls_of, tokens_of, ratios = Counter[int](), Counter[int](), Counter[int]()
    for day in days:
        for prompt_step, ratio_step, calls, prompt_tokens in day.shapes:
            calls_of[prompt_step] += calls
            tokens_of[prompt_step] += prompt_tokens
            ratios[ratio_step] += calls
    short, middle = _place(_SHORT, calls_of), _place(_USUAL, calls_of)
    usual, usual_ratio = tokens_of[middle] // max(1, calls_of[middle]), _place(_USUAL, ratios)
    return Use(
        kind=kind,
        provider=provider,
        model=model,
        agent=agent,
        short_prompt_tokens=tokens_of[short] // max(1, calls_of[short]),
        days=tuple(_daily(day, usual=usual, usual_ratio=usual_ratio) for day in days),
    )


def _daily(day: UsedDay, *, usual: int, usual_ratio: int) -> DailyUse:
    long = [
        shape
        for shape in day.shapes
        if shape.prompt_tokens > _LONG * usual * shape.calls and shape.ratio_step >= usual_ratio + _LONG_STEPS
    ]
    calls = sum(shape.calls for shape in long)
    return DailyUse(
        day=day.day,
        calls=day.calls,
        usage=day.usage,
        cost=day.cost,
        warm_calls=day.warm_calls,
        long_calls=calls,
        long_tokens=sum(shape.prompt_tokens for shape in long) - 2 * usual * calls,
    )


def _place(percent: int, calls_of: Counter[int]) -> int:
    """Gives the first step that so many calls in a hundred lie in or below; 0 for none."""
    wanted, below = calls_of.total() * percent, 0
    for step in sorted(calls_of):
        below += calls_of[step]
        if below * 100 >= wanted:
            return step
    return 0
