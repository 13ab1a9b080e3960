"""What is learnt of one agent with one model, of a tool or a step, and of the nodes of a workflow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from services.orchestrator.domain.run_shape import TurnShape

#: Turns that are kept, and those after which an older one counts half.
MOST_TURNS: Final = 96
_HALF_LIFE: Final = 64.0
#: Turns that are left when things have changed.
_AFTER_CHANGE: Final = 16
#: What nobody has learnt yet, as so many turns: answers take so much of what they may, spread like this.
_PRIOR_TURNS: Final = 1.0
_PRIOR_SPREAD: Final = 0.7
_PRIOR_SLOPE_WEIGHT: Final = 1.0
_FILLED: Final = 0.4
_SHORT_ANSWER: Final = 40.0
#: Seconds before the first token, and tokens in a second, of a hosted model of the middle.
_FIRST_TOKEN_SECONDS: Final = 0.7
_TOKENS_PER_SECOND: Final = 60.0
_WORK_SECONDS: Final = 2.0
_LEAST: Final = 1e-3
#: Of a part's chance and number of items: what counts of the past once one more run has come.
_KEPT: Final = 0.97
#: What nobody has learnt yet of the length of a list, as so many runs.
_ITEMS_PRIOR: Final = 0.25


@dataclass(frozen=True, slots=True)
class TurnPoint:
    """One turn, in logarithms."""

    #: Input tokens as they were expected from its bytes, and as they were.
    expected: float
    input: float
    output: float
    seconds: float


@dataclass(frozen=True, slots=True)
class TurnMean:
    """What one turn takes on average, and how far it strays: relative standard deviations."""

    input_tokens: float
    output_tokens: float
    seconds: float
    input_stray: float
    output_stray: float
    seconds_stray: float


@dataclass(slots=True)
class TurnHabits:
    """The latest turns of an agent with a model, the oldest first."""

    points: list[TurnPoint] = field(default_factory=list[TurnPoint])
    #: What follows from them. An estimate needs this alone: it may be known without the turns.
    fit: "TurnFit | None" = None

    def mean(self, expected_tokens: float, turn: TurnShape) -> TurnMean:
        """Gives what a turn takes that is expected to read so many tokens."""
        fit = self.fit or _fit((), turn)
        expected = math.log(max(expected_tokens, 1.0))
        read = expected + fit.input.at(expected)
        said = fit.output.at(read)
        most = float(turn.max_output * (1 + turn.max_tool_calls))
        output = min(math.exp(said + fit.output.spread**2 / 2), most)
        seconds = seconds_of(output) * math.exp(fit.seconds.at(0.0) + fit.seconds.spread**2 / 2)
        return TurnMean(
            input_tokens=math.exp(read + fit.input.spread**2 / 2),
            output_tokens=output,
            seconds=seconds,
            input_stray=_stray(fit.input.strays(expected)),
            output_stray=_stray(fit.output.strays(read)),
            seconds_stray=_stray(math.hypot(fit.seconds.spread, fit.output.spread / 2)),
        )

    def learn(self, points: Sequence[TurnPoint], turn: TurnShape) -> None:
        """Takes turns of one more run."""
        self.points += points
        del self.points[:-MOST_TURNS]
        self.fit = _fit(self.points, turn)

    def changed(self, turn: TurnShape) -> None:
        """Forgets what was before the latest turns: runs do not go any more as they did."""
        del self.points[:-_AFTER_CHANGE]
        self.fit = _fit(self.points, turn) if self.points else None


@dataclass(slots=True)
class WorkHabits:
    """How long a tool or a step of a worker takes: logarithms of seconds, the oldest first."""

    seconds: list[float] = field(default_factory=list[float])

    def mean(self) -> tuple[float, float]:
        """Gives the seconds of one, and how far it strays."""
        line = _line([(0.0, second) for second in self.seconds], prior=math.log(_WORK_SECONDS), slope=0.0)
        return math.exp(line.at(0.0) + line.spread**2 / 2), _stray(line.spread)

    def learn(self, seconds: Sequence[float]) -> None:
        """Takes those of one more run."""
        self.seconds += [math.log(max(second, _LEAST)) for second in seconds]
        del self.seconds[:-MOST_TURNS]


@dataclass(slots=True)
class PartHabits:
    """How often a node is made and not passed over, and how many items a map has."""

    runs: float = 0.0
    made: float = 0.0
    #: Sums of the numbers of items, and of their squares, over the runs in which it was made.
    items: float = 0.0
    squares: float = 0.0

    def learn(self, items: int) -> None:
        """Takes one more run; 0 items mean that it was passed over."""
        self.runs = self.runs * _KEPT + 1
        self.made *= _KEPT
        self.items *= _KEPT
        self.squares *= _KEPT
        if items:
            self.made += 1
            self.items += items
            self.squares += items * items

    def chance(self, prior: float) -> float:
        """Gives how likely it is made."""
        return (self.made + prior) / (self.runs + 1)

    def items_of(self, prior: float) -> tuple[float, float]:
        """Gives how many items it has, and their variance."""
        mean = (self.items + _ITEMS_PRIOR * prior) / (self.made + _ITEMS_PRIOR)
        square = (self.squares + _ITEMS_PRIOR * 1.25 * prior * prior) / (self.made + _ITEMS_PRIOR)
        return mean, max(square - mean * mean, 0.0)


def seconds_of(output_tokens: float) -> float:
    """Gives the seconds of a turn of a model that nobody has learnt of."""
    return _FIRST_TOKEN_SECONDS + output_tokens / _TOKENS_PER_SECOND


def point_of(expected_tokens: float, *, input_tokens: int, output_tokens: int, seconds: float) -> TurnPoint:
    """Writes a turn as it was made."""
    return TurnPoint(
        expected=math.log(max(expected_tokens, 1.0)),
        input=math.log(max(input_tokens, 1)),
        output=math.log(max(output_tokens, 1)),
        seconds=math.log(max(seconds, _LEAST) / seconds_of(output_tokens)),
    )


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points, and how far they stray from it."""

    middle: float
    start: float
    slope: float
    spread: float
    #: How little the points show of its height, as one over so many, and of its slope: one over how far they lie apart.
    few: float = 0.0
    close: float = 0.0

    def strays(self, place: float) -> float:
        """Gives how far a point strays at a place: as points do, and for how little is known of the line there."""
        return self.spread * math.sqrt(1 + self.few + self.close * (place - self.middle) ** 2)

    def at(self, place: float) -> float:
        """Gives its height at a place."""
        return self.start + self.slope * (place - self.middle)


@dataclass(frozen=True, slots=True)
class TurnFit:
    """What the turns of an agent follow."""

    #: What is added to the logarithm of the expected input, by that logarithm.
    input: Line
    #: Of the output, by the logarithm of the input.
    output: Line
    #: What is added to the logarithm of the seconds that so much output takes.
    seconds: Line


def _fit(points: Sequence[TurnPoint], turn: TurnShape) -> TurnFit:
    answer = min(float(turn.max_output), _SHORT_ANSWER + _FILLED * turn.max_output)
    return TurnFit(
        input=_line([(one.expected, one.input - one.expected) for one in points], prior=0.0, spread=0.2),
        output=_line([(one.input, one.output) for one in points], prior=math.log(answer)),
        seconds=_line([(0.0, one.seconds) for one in points], prior=0.0, spread=0.4, slope=0.0),
    )


def _line(
    points: Sequence[tuple[float, float]], *, prior: float, spread: float = _PRIOR_SPREAD, slope: float | None = None
) -> Line:
    """Lays a line through points, the newer ones counting more.

    Args:
        prior: its height and `spread` how far points stray, as one point among them.
        slope: what it is; None to find it, drawn towards none where points do not show one.
    """
    if not points:
        return Line(0.0, prior, 0.0, spread)
    count = len(points)
    weights = [0.5 ** ((count - 1 - place) / _HALF_LIFE) for place in range(count)]
    total = sum(weights)
    middle = sum(weight * x for weight, (x, _) in zip(weights, points, strict=True)) / total
    height = sum(weight * y for weight, (_, y) in zip(weights, points, strict=True)) / total
    close = 0.0
    if slope is None:
        along = sum(weight * (x - middle) ** 2 for weight, (x, _) in zip(weights, points, strict=True))
        both = sum(weight * (x - middle) * (y - height) for weight, (x, y) in zip(weights, points, strict=True))
        slope = both / (along + _PRIOR_SLOPE_WEIGHT)
        close = 1 / (along + _PRIOR_SLOPE_WEIGHT)
    strays = sum(
        weight * (y - height - slope * (x - middle)) ** 2 for weight, (x, y) in zip(weights, points, strict=True)
    )
    # One turn tells little: what was thought before counts as one more, less and less.
    prior_weight = _PRIOR_TURNS / count
    start = (total * height + prior_weight * prior) / (total + prior_weight)
    spread = math.sqrt((strays + prior_weight * spread**2) / (total + prior_weight))
    return Line(middle, start, slope, spread, few=1 / total, close=close)


def _stray(spread: float) -> float:
    """Gives the relative standard deviation of what is spread like this in logarithms."""
    return math.sqrt(math.expm1(min(spread, 2.0) ** 2))
