"""How two runs differ, side by side."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from comitia_sdk.cli.output import dollars, plain
from comitia_sdk.cli.tokens import in_and_out

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration
    from rich.table import Table

    from comitia.orchestrator.v1.record_pb2 import RunDifference, RunSide, StepDifference, StepSide

_GONE: Final = "red"
_COME: Final = "green"
_FAINT: Final = "bright_black"
_NOTHING: Final = "—"
#: Names of fields are folded beyond this width.
_NAME_WIDTH: Final = 26
#: A text is shown up to this many characters.
_MOST_SHOWN: Final = 600


def show_difference(found: "RunDifference") -> None:
    """Writes the comparison as tables: the runs, what they pinned, and each step that differs."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    console.print(_runs(found))
    if found.pins:
        table = _table("what they pinned", "first", "second")
        for pin in found.pins:
            _add(table, pin.field, pin.before or _NOTHING, pin.after or _NOTHING)
        console.print(table)
    for step in found.steps:
        console.print(_step(step))
    console.print(_summary(found))


def _runs(found: "RunDifference") -> "Table":
    first, second = found.first, found.second
    table = _table("", first.run_id, second.run_id)
    rows: Mapping[str, Callable[[RunSide], str]] = {
        "forked from": _origin,
        "state": lambda side: f"{side.state.lower()} {side.state_reason}".strip(),
        "steps": lambda side: str(side.step_count),
        "facts": lambda side: str(side.fact_count),
        "cost": lambda side: dollars(side.cost_nano_usd),
        "tokens": lambda side: in_and_out(side.usage),
        "time": lambda side: _seconds(side.duration),
    }
    for name, show in rows.items():
        _add(table, name, show(first), show(second))
    return table


def _step(step: "StepDifference") -> "Table":
    table = _table(step.path, "first", "second")
    first = step.first if step.HasField("first") else None
    second = step.second if step.HasField("second") else None
    rows: Mapping[str, Callable[[StepSide], str]] = {
        "outcome": lambda side: f"{side.outcome or 'in progress'} {side.reason}".strip(),
        "agent": lambda side: side.agent,
        "model": lambda side: side.model,
        "tools": lambda side: ", ".join(side.tools),
        "rules": lambda side: "; ".join(side.verdicts),
        "law": lambda side: side.bundle_digest[:12],
        "cost": lambda side: dollars(side.cost_nano_usd),
        "tokens": lambda side: in_and_out(side.usage),
        "time": lambda side: _seconds(side.duration),
    }
    for name, show in rows.items():
        _add(table, name, *(_NOTHING if side is None else show(side) for side in (first, second)))
    for number, change in enumerate(step.changes):
        _add(table, "" if number else "words", _cut(change.before) or _NOTHING, _cut(change.after) or _NOTHING)
    if not step.changes:
        _add(table, "text", *("" if side is None else _cut(side.text) for side in (first, second)))
    alike = [f"{step.words:.2f} by words"] if step.HasField("words") else []
    alike += [f"{step.meaning:.2f} by meaning"] if step.HasField("meaning") else []
    if alike:
        _add(table, "alike", ", ".join(alike), "")
    return table


def _summary(found: "RunDifference") -> str:
    if not found.steps and not found.pins:
        return f"no difference: all {found.same_step_count} steps are the same but for their times"
    more = f", {found.omitted_step_count} beyond those shown" if found.omitted_step_count else ""
    left_out = f"\nnot compared by meaning: {plain(found.meaning_left_out)}" if found.meaning_left_out else ""
    return f"{len(found.steps)} steps differ{more}; {found.same_step_count} are the same{left_out}"


def _table(title: str, first: str, second: str) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    heading = Text(plain(title), style="bold") if title else None
    table = Table(title=heading, title_justify="left", box=SIMPLE_HEAD, expand=True, pad_edge=False)
    table.add_column("", max_width=_NAME_WIDTH, overflow="fold")
    table.add_column(Text(plain(first)), ratio=1, overflow="fold")
    table.add_column(Text(plain(second)), ratio=1, overflow="fold")
    return table


def _add(table: "Table", name: str, first: str, second: str) -> None:
    """Writes a row; what differs stands out, and one in which there is nothing is left out."""
    from rich.text import Text

    if not first and not second:
        return
    differs = first != second and name != "alike"
    table.add_row(
        Text(plain(name), style="" if differs else _FAINT),
        Text(plain(first), style=_GONE if differs else _FAINT),
        Text(plain(second), style=_COME if differs else _FAINT),
    )


def _origin(side: "RunSide") -> str:
    if not side.forked_from_run_id:
        return ""
    place = f"after fact {side.forked_at_sequence}" if side.forked_at_sequence else "from the beginning"
    return f"{side.forked_from_run_id} {place}"


def _seconds(duration: "Duration") -> str:
    return f"{duration.seconds + duration.nanos / 1e9:.2f} s"


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"
