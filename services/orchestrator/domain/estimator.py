"""Estimates what a run takes before it runs, and learns from what runs took.

Two layers. What agents, tools and nodes do is learnt part by part (`turn_habits`), so that a version or an input that
was never run is estimated from parts that were. By how much whole runs then still differ is learnt by name
(`conformal`): the median is moved by it, and the interval comes from it. Both begin with static tables, and an estimate
that nothing was learnt for says so.
"""

import math
from collections.abc import Iterable, Mapping
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
    taken = _Sums(habits, prices).of(shape)
    own = habits.runs.get(shape.name) or RunHabits()
    ranges: list[Range] = []
    for amount, (base, spread) in enumerate(taken.bases()):
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
    taken = _Sums(habits, prices).of(shape)
    expected = _read_by(shape, seen, habits)
    changed = _learn_errors(shape, seen, habits, taken)
    _learn_parts(shape, seen, habits)
    _learn_turns(shape, seen, habits, expected)
    if changed:
        for turn in shape.turns():
            known = habits.turns.get(turn_key(turn))
            if known is not None:
                known.changed(turn)
    return given


def _learn_errors(shape: RunShape, seen: SeenRun, habits: Habits, taken: "_Taken") -> bool:
    own = habits.runs.setdefault(shape.name, RunHabits())
    pool = habits.runs.setdefault(ANY_NAME, RunHabits())
    changed = False
    for amount, (base, spread) in enumerate(taken.bases()):
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


def _read_by(shape: RunShape, seen: SeenRun, habits: Habits) -> dict[int, float]:
    """Gives, by part, the input that its turns were to have, now that it is known how long the answers are that they
    read: what is left to learn is how bytes become tokens.
    """
    spoken: dict[int, list[int]] = {}
    for one in seen.turns:
        spoken.setdefault(one.part, []).append(one.output_tokens)
    every = [tokens for part in spoken for tokens in spoken[part] if shape.parts[part].turn is not None]
    shown = min(SHOWN_TOKENS, sum(every) / len(every)) if every else 0.0
    outputs: list[float] = []
    expected: dict[int, float] = {}
    for place, part in enumerate(shape.parts):
        said = spoken.get(place, ())
        if part.turn is not None:
            expected[place] = _read(part.turn, sum(outputs[before] for before in part.turn.reads), shown)
            # Of many turns only some are among those that are given.
            outputs.append(sum(said) / len(said) * seen.made.get(place, len(said)) if said else 0.0)
        else:
            passed_on = part.run is None and not part.work
            outputs.append(sum(outputs[before] for before in part.after) if passed_on else 0.0)
    return expected


def _read(turn: TurnShape, given: float, shown: float) -> float:
    """Gives the input tokens of a turn by the bytes and answers that it is shown.

    Args:
        given: tokens of the answers that it reads.
        shown: tokens of each text that was said before.
    """
    read = turn.given_bytes / BYTES_PER_TOKEN + _AROUND + turn.tools * _TOOL_TOKENS + given + turn.heard * shown
    if turn.tools:
        calls = _TOOL_CALLS * turn.max_tool_calls
        read = read * (1 + calls) + calls * (calls + 1) / 2 * _TOOL_RESULT_TOKENS
    return read


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


@dataclass(slots=True)
class _Taken:
    """What a run takes."""

    means: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    variances: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    #: Seconds until it has ended, and their variance.
    end: tuple[float, float] = (0.0, 0.0)

    def bases(self) -> list[tuple[float, float]]:
        """Gives the mean of each amount with its spread in logarithms."""
        means, variances = [*self.means, self.end[0]], [*self.variances, self.end[1]]
        return [
            (mean, math.sqrt(math.log1p(variance / (mean * mean))) if mean > 0 else 0.0)
            for mean, variance in zip(means, variances, strict=True)
        ]

    def add(self, amount: int, made: "_Made", mean: float, variance: float) -> None:
        """Adds what is made so often."""
        self.means[amount] += made.count * mean
        self.variances[amount] += made.count * variance + made.variance * mean * mean


class _Sums:
    """Adds up what the parts of runs take: means and variances."""

    def __init__(self, habits: Habits, prices: Mapping[str, Prices]) -> None:
        self._habits = habits
        self._prices = prices
        #: By shape: one that many nodes start is added up once.
        self._taken: dict[int, _Taken] = {}

    def of(self, shape: RunShape) -> _Taken:
        """Adds up a run."""
        if id(shape) not in self._taken:
            self._taken[id(shape)] = self._add_up(shape)
        return self._taken[id(shape)]

    def _add_up(self, shape: RunShape) -> _Taken:
        taken = _Taken()
        ends: list[tuple[float, float]] = []
        outputs: list[_Said] = []
        chances: list[float] = []
        known = self._habits.runs.get(shape.name)
        for part in shape.parts:
            habits = known.parts.get(part.place) if known is not None else None
            chance = self._chance(part, habits, chances)
            chances.append(chance)
            items, variance = part.items, 0.0
            if not part.items_known:
                items, variance = (habits or PartHabits()).items_of(part.items)
            # Of what is made n times or not at all: the number and its variance.
            made = _Made(chance * items, chance * (variance + items * items) - (chance * items) ** 2)
            took = self._part(part, made, taken, outputs)
            rounds = math.ceil(items / part.parallel) if part.parallel > 1 else items
            begun = max((ends[before] for before in part.after), default=(0.0, 0.0))
            longest = took[0] * rounds * chance
            ends.append((begun[0] + longest, begun[1] + (took[0] * took[1] * chance) ** 2 * rounds))
        taken.end = max(ends, default=(0.0, 0.0))
        return taken

    def _chance(self, part: PartShape, habits: PartHabits | None, before: list[float]) -> float:
        prior = min((before[place] for place in part.after), default=1.0)
        if part.conditional:
            prior *= _STATIC_CHANCE
        if habits is None or not (part.conditional or prior < 1):
            return prior
        return habits.chance(prior)

    def _part(self, part: PartShape, made: "_Made", taken: _Taken, outputs: list["_Said"]) -> tuple[float, float]:
        """Adds one part; gives the seconds of one of it, and how far they stray."""
        if part.turn is not None:
            return self._turn(part.turn, made, taken, outputs)
        outputs.append(_NOTHING)
        if part.run is not None:
            below = self.of(part.run)
            for amount, (mean, variance) in enumerate(zip(below.means, below.variances, strict=True)):
                taken.add(amount, made, mean, variance)
            seconds, variance = below.end
            # What it gives is about as long as its last answers: those that read it learn the rest.
            return seconds, math.sqrt(variance) / seconds if seconds else 0.0
        if part.work:
            return (self._habits.works.get(part.work) or WorkHabits()).mean()
        outputs[-1] = _together(outputs[before] for before in part.after)
        return 0.0, 0.0

    def _turn(self, turn: TurnShape, made: "_Made", taken: _Taken, outputs: list["_Said"]) -> tuple[float, float]:
        habits = self._habits.turns.get(turn_key(turn)) or TurnHabits()
        given = _together(outputs[before] for before in turn.reads)
        shown = 0.0
        if turn.heard:
            shown = min(SHOWN_TOKENS, habits.mean(_read(turn, given.tokens, 0.0), turn).output_tokens)
        read = _read(turn, given.tokens, shown)
        mean = habits.mean(read, turn)
        # The answers that it reads are longer or shorter than expected, and so is what it reads.
        input_stray = math.hypot(mean.input_stray, math.sqrt(given.variance) / read)
        one = mean.output_tokens
        strays = (mean.input_tokens * input_stray, one * mean.output_stray)
        outputs.append(_Said(made.count * one, made.count * strays[1] ** 2 + made.variance * one * one))
        taken.add(Amount.INPUT_TOKENS, made, mean.input_tokens, strays[0] ** 2)
        taken.add(Amount.OUTPUT_TOKENS, made, one, strays[1] ** 2)
        price = self._prices.get(turn.model, Prices(input=0, output=0))
        money = mean.input_tokens * price.input / 1e6 + one * price.output / 1e6
        strayed = (strays[0] * price.input / 1e6) ** 2 + (strays[1] * price.output / 1e6) ** 2
        taken.add(Amount.COST, made, money, strayed)
        return mean.seconds, mean.seconds_stray


@dataclass(frozen=True, slots=True)
class _Made:
    """How often a part is made in a run."""

    count: float
    variance: float


@dataclass(frozen=True, slots=True)
class _Said:
    """What a part gives in a run to those that read it."""

    tokens: float
    variance: float


_NOTHING: Final = _Said(0.0, 0.0)


def _together(said: Iterable[_Said]) -> _Said:
    each = list(said)
    return _Said(sum(one.tokens for one in each), sum(one.variance for one in each))
