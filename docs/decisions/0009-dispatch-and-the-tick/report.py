"""Prints figures: one JSON line each, and tables of them at the end."""

import json
from collections.abc import Iterable, Sequence


def report(figure: str, value: float, unit: str, better: str, note: str, goal: float | None = None) -> None:
    line = {"bench": "loop", "figure": figure, "value": round(value, 3), "unit": unit, "better": better}
    if goal is not None:
        line["goal"] = goal
    print(json.dumps(line | {"note": note}), flush=True)


def table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print(flush=True)
