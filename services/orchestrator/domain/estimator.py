"""Estimates what a run takes before it runs, and learns from what runs took.

Two layers. What agents, tools and nodes do is learnt part by part (`turn_habits`), so that a version or an input that
was never run is estimated from parts that were. By how much whole runs then still differ is learnt by name
(`conformal`): the median is moved by it, and the interval comes from it. Both begin with static tables, and an estimate
that nothing was learnt for says so.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from services.orchestrator.domain.conformal import Error, ErrorWindow, Interval
from services.orchestrator.domain.run_shape import (
    BYTES_PER_TOKEN,
    SHOWN_TOKENS,
    Amount,
    PartShape,
    Prices,
    RunShape,
    SeenRun,
    SeenTurn,
    TurnShape,
)
from services.orchestrator.domain.turn_habits import PartHabits, TurnHabits, TurnPoint, WorkHabits, point_of

_Any = TypeVar("_Any")

#: Calibration of all runs of a tenant together, for names of which there are few.
ANY_NAME: Final = "*"
#: Runs of a name from which on those of other names are not asked any more.
_ENOUGH_OWN: Final = 8
#: What a column and a field of 64 bits hold.
_MOST: Final = 2**63 - 1
#: Nodes of one name that are learnt, and turns of one agent that are learnt from one run.
MOST_PARTS: Final = 2_000
_TURNS_OF_RUN: Final = 3
_STATIC_CHANCE: Final = 0.5
#: Tokens that a dialect writes around a prompt.
_AROUND: Final = 24.0
_TOOL_TOKENS: Final = 120.0
#: Share of the tool calls it may make that an agent makes, and tokens that one adds to its prompt.
_TOOL_CALLS: Final = 0.4
_TOOL_RESULT_TOKENS: Final = 200.0


@dataclass(frozen=True, slots=True)
class Range:
    """A median and the bounds of its 90 % interval."""

    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a run is expected to take."""

    ranges: tuple[Range, Range, Range, Range]
    #: Runs of its name, or of its tenant where `pooled`, that the interval rests on. 0: static tables alone.
    calibrated_on: int
    pooled: bool
    #: Intervals of runs of its name that were held against what came, and how many of them held the money.
    judged: int
    covered: int
    #: Models that have no known price: their turns are counted without money.
    unpriced: tuple[str, ...] = ()

    def of(self, amount: Amount) -> Range:
        """Gives the range of one amount."""
        return self.ranges[amount]

    def whole(self) -> tuple[tuple[int, int, int], ...]:
        """Gives low bound, median and high bound of each amount in whole numbers, seconds as milliseconds."""
        found: list[tuple[int, int, int]] = []
        for amount, one in enumerate(self.ranges):
            unit = 1_000 if amount == Amount.SECONDS else 1
            bounds = math.floor(one.low * unit), round(one.median * unit), math.ceil(one.high * unit)
            found.append((min(bounds[0], _MOST), min(bounds[1], _MOST), min(bounds[2], _MOST)))
        return tuple(found)


@dataclass(slots=True)
class RunHabits:
    """What is learnt of the runs of one name."""

    #: By amount.
    windows: tuple[ErrorWindow, ErrorWindow, ErrorWindow, ErrorWindow] = field(
        default_factory=lambda: (ErrorWindow(), ErrorWindow(), ErrorWindow(), ErrorWindow())
    )
    #: By place. Bounded by MOST_PARTS.
    parts: dict[str, PartHabits] = field(default_factory=dict[str, PartHabits])


@dataclass(slots=True)
class Habits:
    """What is learnt of a tenant, as far as one run needs it."""

    #: By `agent|model`.
    turns: dict[str, TurnHabits] = field(default_factory=dict[str, TurnHabits])
    #: By `tool:<name>` and `step:<name>`.
    works: dict[str, WorkHabits] = field(default_factory=dict[str, WorkHabits])
    #: By name of the run.
    runs: dict[str, RunHabits] = field(default_factory=dict[str, RunHabits])


def turn_key(turn: TurnShape) -> str:
    """Names what is learnt of an agent with a model."""
    return f"{turn.agent}|{turn.model}"


def keys_of(shape: RunShape) -> tuple[set[str], set[str], set[str]]:
    """Gives which turns, works and runs an estimate needs to know of."""
    turns = {turn_key(turn) for turn in shape.turns()}
    return turns, set(shape.works()), {ANY_NAME, *(run.name for run in shape.runs())}


def estimate(shape: RunShape, habits: Habits, prices: Mapping[str, Prices]) -> Estimate:
    """Estimates a run.

    Args:
        prices: by model; of one that is missing the price is not known.
    """
    sums = _Sums(habits, prices)
    sums.add(shape)
    own = habits.runs.get(shape.name) or RunHabits()
    ranges: list[Range] = []
    for amount, (base, spread) in enumerate(sums.bases()):
        window, _ = _window(habits, own, Amount(amount))
        ranges.append(_moved(base, window.interval(spread)) if base > 0 else Range(0.0, 0.0, 0.0))
    window, pooled = _window(habits, own, Amount.OUTPUT_TOKENS)
    money = own.windows[Amount.COST]
    return Estimate(
        ranges=(ranges[0], ranges[1], ranges[2], ranges[3]),
        calibrated_on=len(window.errors),
        pooled=pooled and bool(window.errors),
        judged=money.judged,
        covered=money.covered,
        unpriced=tuple(sorted({turn.model for turn in shape.turns()} - prices.keys())),
    )


def learn(shape: RunShape, seen: SeenRun, habits: Habits, prices: Mapping[str, Prices]) -> Estimate:
    """Takes a run that has ended; gives what it would have been estimated at without it."""
    given = estimate(shape, habits, prices)
    sums = _Sums(habits, prices)
    expected = sums.add(shape)
    changed = _learn_errors(shape, seen, habits, sums)
    _learn_parts(shape, seen, habits)
    _learn_turns(shape, seen, habits, expected)
    if changed:
        for turn in shape.turns():
            known = habits.turns.get(turn_key(turn))
            if known is not None:
                known.changed(turn)
    return given


def _learn_errors(shape: RunShape, seen: SeenRun, habits: Habits, sums: "_Sums") -> bool:
    own = habits.runs.setdefault(shape.name, RunHabits())
    pool = habits.runs.setdefault(ANY_NAME, RunHabits())
    changed = False
    for amount, (base, spread) in enumerate(sums.bases()):
        actual = seen.totals[amount]
        if base <= 0 or actual <= 0:
            continue
        error = Error(off=math.log(actual / base), own=spread)
        given = _window(habits, own, Amount(amount))[0].interval(spread)
        window, shared = own.windows[amount], pool.windows[amount]
        shared.learn(error, shared.interval(spread), judged=True)
        changed |= window.learn(error, given, judged=True) and amount != Amount.SECONDS
    return changed


def _learn_parts(shape: RunShape, seen: SeenRun, habits: Habits) -> None:
    parts = habits.runs[shape.name].parts
    for place, part in enumerate(shape.parts):
        if not part.conditional and part.items_known and not _judged_by(shape, part):
            continue
        known = parts.get(part.place)
        if known is None:
            if len(parts) >= MOST_PARTS:
                continue
            known = parts[part.place] = PartHabits()
        known.learn(seen.made.get(place, 0))


def _judged_by(shape: RunShape, part: PartShape) -> bool:
    """Says whether a part may be passed over for one before it."""
    return any(shape.parts[place].conditional for place in part.after)


def _learn_turns(shape: RunShape, seen: SeenRun, habits: Habits, expected: Mapping[int, float]) -> None:
    turns: dict[str, tuple[TurnShape, list[TurnPoint]]] = {}
    works: dict[str, list[float]] = {}
    for one in seen.turns:
        part = shape.parts[one.part]
        if part.turn is not None and one.part in expected and one.output_tokens:
            turns.setdefault(turn_key(part.turn), (part.turn, []))[1].append(_point(one, expected[one.part]))
        elif part.work:
            works.setdefault(part.work, []).append(one.seconds)
    for key, (turn, points) in turns.items():
        habits.turns.setdefault(key, TurnHabits()).learn(_some(points), turn)
    for key, seconds in works.items():
        habits.works.setdefault(key, WorkHabits()).learn(_some(seconds))


def _point(seen: SeenTurn, expected: float) -> TurnPoint:
    return point_of(expected, input_tokens=seen.input_tokens, output_tokens=seen.output_tokens, seconds=seen.seconds)


def _some(given: list[_Any]) -> list[_Any]:
    """Gives some of many, evenly: the turns of one run have much in common, and must not fill what is kept."""
    if len(given) <= _TURNS_OF_RUN:
        return given
    return [given[place * len(given) // _TURNS_OF_RUN] for place in range(_TURNS_OF_RUN)]


def _window(habits: Habits, own: RunHabits, amount: Amount) -> tuple[ErrorWindow, bool]:
    """Gives the errors that an interval rests on, and whether they are of all runs of the tenant."""
    window, pool = own.windows[amount], habits.runs.get(ANY_NAME)
    if window.enough or pool is None or not pool.windows[amount].enough or len(window.errors) >= _ENOUGH_OWN:
        return window, False
    return pool.windows[amount], True


def _moved(base: float, by: Interval) -> Range:
    return Range(base * math.exp(by.low), base * math.exp(by.median), base * math.exp(by.high))


class _Sums:
    """Adds up what the parts of a run take: means and variances."""

    def __init__(self, habits: Habits, prices: Mapping[str, Prices]) -> None:
        self._habits = habits
        self._prices = prices
        self._means = [0.0, 0.0, 0.0]
        self._variances = [0.0, 0.0, 0.0]
        #: Seconds until the run added last has ended, and their variance.
        self._last = (0.0, 0.0)

    def bases(self) -> list[tuple[float, float]]:
        """Gives the mean of each amount with its spread in logarithms."""
        means, variances = [*self._means, self._last[0]], [*self._variances, self._last[1]]
        return [
            (mean, math.sqrt(math.log1p(variance / (mean * mean))) if mean > 0 else 0.0)
            for mean, variance in zip(means, variances, strict=True)
        ]

    def add(self, shape: RunShape, times: float = 1.0) -> Mapping[int, float]:
        """Adds a run; gives the input that was expected of each of its turns, by part, from their bytes alone."""
        ends: list[tuple[float, float]] = []
        outputs: list[float] = []
        expected: dict[int, float] = {}
        chances: list[float] = []
        known = self._habits.runs.get(shape.name)
        for place, part in enumerate(shape.parts):
            habits = known.parts.get(part.place) if known is not None else None
            chance = self._chance(part, habits, chances)
            chances.append(chance)
            items, variance = part.items, 0.0
            if not part.items_known:
                items, variance = (habits or PartHabits()).items_of(part.items)
            count = chance * items * times
            # Of what is made n times or not at all: variance of the number.
            number = times * (chance * (variance + items * items) - (chance * items) ** 2)
            took = self._part(place, part, count, number, outputs, expected)
            rounds = math.ceil(items / part.parallel) if part.parallel > 1 else items
            begun = max((ends[before] for before in part.after), default=(0.0, 0.0))
            longest = took[0] * rounds * chance
            ends.append((begun[0] + longest, begun[1] + (took[0] * took[1] * chance) ** 2 * rounds))
        self._last = max(ends, default=(0.0, 0.0))
        return expected

    def _chance(self, part: PartShape, habits: PartHabits | None, before: list[float]) -> float:
        prior = min((before[place] for place in part.after), default=1.0)
        if part.conditional:
            prior *= _STATIC_CHANCE
        if habits is None or not (part.conditional or prior < 1):
            return prior
        return habits.chance(prior)

    def _part(
        self,
        place: int,
        part: PartShape,
        count: float,
        number: float,
        outputs: list[float],
        expected: dict[int, float],
    ) -> tuple[float, float]:
        """Adds one part; gives the seconds of one of it, and how far they stray."""
        if part.turn is not None:
            return self._turn(place, part.turn, count, number, outputs, expected)
        outputs.append(0.0)
        if part.run is not None:
            self.add(part.run, times=count)
            seconds, variance = self._last
            # What it gives is about as long as its last answers: those that read it learn the rest.
            return seconds, math.sqrt(variance) / seconds if seconds else 0.0
        if part.work:
            return (self._habits.works.get(part.work) or WorkHabits()).mean()
        outputs[-1] = sum(outputs[before] for before in part.after)
        return 0.0, 0.0

    def _turn(
        self,
        place: int,
        turn: TurnShape,
        count: float,
        number: float,
        outputs: list[float],
        expected: dict[int, float],
    ) -> tuple[float, float]:
        habits = self._habits.turns.get(turn_key(turn)) or TurnHabits()
        read = turn.given_bytes / BYTES_PER_TOKEN + _AROUND + turn.tools * _TOOL_TOKENS
        read += sum(outputs[before] for before in turn.reads)
        if turn.heard:
            read += turn.heard * min(SHOWN_TOKENS, habits.mean(read, turn).output_tokens)
        if turn.tools:
            calls = _TOOL_CALLS * turn.max_tool_calls
            read = read * (1 + calls) + calls * (calls + 1) / 2 * _TOOL_RESULT_TOKENS
        expected[place] = read
        mean = habits.mean(read, turn)
        outputs.append(mean.output_tokens)
        price = self._prices.get(turn.model, Prices(input=0, output=0))
        amounts = (
            (mean.input_tokens, mean.input_stray),
            (mean.output_tokens, mean.output_stray),
        )
        money = mean.input_tokens * price.input / 1e6, mean.output_tokens * price.output / 1e6
        for amount, (one, stray) in enumerate(amounts):
            self._means[amount] += count * one
            self._variances[amount] += count * (one * stray) ** 2 + number * one * one
        self._means[Amount.COST] += count * sum(money)
        strayed = (money[0] * mean.input_stray) ** 2 + (money[1] * mean.output_stray) ** 2
        self._variances[Amount.COST] += count * strayed + number * sum(money) ** 2
        return mean.seconds, mean.seconds_stray
