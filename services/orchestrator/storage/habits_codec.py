"""What is learnt of runs, as JSON: compact, since an estimate reads a row for each agent. Both ways, pure."""

import json
from collections.abc import Sequence
from typing import Any, Final

from services.orchestrator.domain.conformal import Error, ErrorWindow
from services.orchestrator.domain.estimator import RunHabits
from services.orchestrator.domain.run_shape import Prices
from services.orchestrator.domain.turn_habits import Line, PartHabits, TurnFit, TurnHabits, TurnPoint, WorkHabits

_DIGITS: Final = 4

# JSON of ours, read back.
_Json = Any


def turn_to_json(habits: TurnHabits) -> str:
    """Writes the turns of an agent, and apart from them what follows from them."""
    fit = habits.fit
    lines = () if fit is None else (fit.input, fit.output, fit.seconds)
    points = [_rounded([one.expected, one.input, one.output, one.seconds]) for one in habits.points]
    written = [_rounded([line.middle, line.start, line.slope, line.spread, line.few, line.close]) for line in lines]
    return _dumped({"fit": written, "points": points})


def turn_from_json(written: str) -> TurnHabits:
    """Reads them."""
    found = _loaded(written)
    return TurnHabits(points=[TurnPoint(*_floats(one)) for one in found["points"]], fit=_fit(found["fit"]))


def fit_from_json(written: str) -> TurnHabits:
    """Reads what follows from the turns of an agent, without the turns."""
    return TurnHabits(fit=_fit(_loaded(written)))


def work_to_json(habits: WorkHabits) -> str:
    """Writes how long a tool or step takes."""
    return _dumped(_rounded(habits.seconds))


def work_from_json(written: str) -> WorkHabits:
    """Reads it."""
    return WorkHabits(seconds=_floats(_loaded(written)))


def run_to_json(habits: RunHabits) -> str:
    """Writes what is learnt of the runs of a name."""
    windows = [
        {
            "errors": [_rounded([error.off, error.own]) for error in window.errors],
            "tails": _rounded([window.low_tail, window.high_tail], digits=6),
            "judged": [window.judged, window.covered],
        }
        for window in habits.windows
    ]
    parts = {place: _rounded([part.runs, part.made, part.items, part.squares]) for place, part in habits.parts.items()}
    return _dumped({"windows": windows, "parts": parts})


def run_from_json(written: str) -> RunHabits:
    """Reads it."""
    found = _loaded(written)
    windows = [_window(window) for window in found["windows"]]
    parts = {place: PartHabits(*_floats(part)) for place, part in found["parts"].items()}
    return RunHabits(windows=(windows[0], windows[1], windows[2], windows[3]), parts=parts)


def prices_to_json(prices: Prices) -> str:
    """Writes what a model costs."""
    return _dumped([prices.input, prices.output])


def prices_from_json(written: str) -> Prices:
    """Reads it."""
    input_price, output_price = _loaded(written)
    return Prices(input=int(input_price), output=int(output_price))


def _fit(lines: list[list[float]]) -> TurnFit | None:
    if not lines:
        return None
    read, said, seconds = (Line(*_floats(line)) for line in lines)
    return TurnFit(read, said, seconds)


def _window(found: dict[str, _Json]) -> ErrorWindow:
    low, high = _floats(found["tails"])
    judged, covered = found["judged"]
    errors = [Error(*_floats(error)) for error in found["errors"]]
    return ErrorWindow(errors=errors, low_tail=low, high_tail=high, judged=int(judged), covered=int(covered))


def _rounded(values: Sequence[float], *, digits: int = _DIGITS) -> list[float]:
    return [round(value, digits) for value in values]


def _floats(values: Sequence[float]) -> list[float]:
    return [float(value) for value in values]


def _dumped(value: _Json) -> str:
    return json.dumps(value, separators=(",", ":"))


def _loaded(written: str) -> _Json:
    return json.loads(written)
