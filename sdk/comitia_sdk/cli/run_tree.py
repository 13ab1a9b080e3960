"""Shows a run as it happens: a tree of its steps that grows on a terminal, one line for each change elsewhere."""

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import chain, islice
from threading import Lock
from typing import TYPE_CHECKING, Final

import typer

from comitia_sdk.cli.failure import CommandFailed
from comitia_sdk.cli.output import Form, as_json, dollars, plain

if TYPE_CHECKING:
    from rich.console import RenderableType

    from comitia.orchestrator.v1.run_pb2 import Run, RunStep
    from comitia.orchestrator.v1.run_service_pb2 import WatchRunResponse
    from comitia_sdk.sync import Client

#: How each state of a step looks: its mark and the style of its line.
_LOOKS: Final = {
    "running": (">", "cyan"),
    "waiting": ("~", "yellow"),
    "parked": ("!", "bold yellow"),
    "succeeded": ("+", "green"),
    "failed": ("x", "bold red"),
    "skipped": ("-", "dim"),
    "cancelled": ("x", "dim"),
}
#: Items of a map that are shown; of the others there is a count.
_MOST_ITEMS: Final = 8
#: Lines of the tree that are drawn; the latest ones of a larger run.
_MOST_NODES: Final = 40
_MOST_TEXT: Final = 60
#: Drawings in a second.
_DRAWN_PER_SECOND: Final = 8
_WELL: Final = frozenset({"succeeded", "skipped"})
_OVER: Final = frozenset({"succeeded", "failed", "skipped", "cancelled"})


def follow_run(mesh: "Client", run_id: str, form: Form = Form.TABLE, *, after: int = 0) -> "Run":
    """Shows a run's events until it has ended; gives it as it ended.

    As JSON, each event is one line.
    """
    live = form is Form.TABLE and sys.stdout.isatty()
    events = mesh.runs.watch(run_id, after_sequence=after, include_deltas=live)
    if form is Form.JSON:
        for event in events:
            typer.echo(json.dumps(as_json(event), ensure_ascii=False))
    elif live:
        _draw(events)
    else:
        for event in events:
            _tell(event)
    return mesh.runs.get(run_id)


def require_success(run: "Run") -> None:
    """Checks how a run ended. Raises: CommandFailed: it failed or was cancelled."""
    from comitia.orchestrator.v1 import run_pb2

    if run.state != run_pb2.RUN_STATE_SUCCEEDED:
        why = run.state_message or run.state_reason or "no reason was given"
        raise CommandFailed(f"the run has {run_state(run)}: {why}")


def run_state(run: "Run") -> str:
    """Gives the state's short name."""
    from comitia.orchestrator.v1.run_pb2 import RunState
    from comitia_sdk.enums import short_name

    return short_name(RunState, run.state)


def step_state(step: "RunStep") -> str:
    """Gives the state's short name."""
    from comitia.orchestrator.v1.run_pb2 import StepState
    from comitia_sdk.enums import short_name

    return short_name(StepState, step.state)


def step_note(step: "RunStep") -> str:
    """Says of a step what is worth knowing besides its state."""
    notes = [
        step.agent,
        f"{step.item_count} items" if step.item_count else "",
        f"attempt {step.attempts}" if step.attempts > 1 else "",
        step.started_run_id,
        dollars(step.cost_nano_usd) if step.cost_nano_usd else "",
        _seconds(step),
        "later than its goal" if step.missed_sla else "",
        f"{step.state_message or step.state_reason}" if step.state_reason else "",
    ]
    return plain(" · ".join(note for note in notes if note))


def _seconds(step: "RunStep") -> str:
    if not step.HasField("end_time") or not step.HasField("start_time"):
        return ""
    took = step.end_time.ToDatetime() - step.start_time.ToDatetime()
    return f"{took.total_seconds():.1f} s"


def _tell(event: "WatchRunResponse") -> None:
    """Writes an event as one line, or two."""
    when = event.event_time.ToDatetime().strftime("%H:%M:%S")
    if event.HasField("step"):
        step = event.step
        typer.echo(f"{when}  {plain(step.path)}  {step_state(step)}  {step_note(step)}".rstrip())
    if event.HasField("run"):
        why = f": {plain(event.run.state_message)}" if event.run.state_message else ""
        typer.echo(f"{when}  run {run_state(event.run)}{why}")


def _draw(events: "Iterator[WatchRunResponse]") -> None:
    """Keeps a tree on the terminal up to date, and leaves it there at the end."""
    from rich.live import Live

    tree, one_at_a_time = RunTree(), Lock()

    def drawing() -> "RenderableType":
        # A thread of rich draws, so that what came last is seen though nothing follows for hours.
        with one_at_a_time:
            return tree.drawing()

    with Live(get_renderable=drawing, refresh_per_second=_DRAWN_PER_SECOND):
        for event in events:
            with one_at_a_time:
                tree.take(event)


class RunTree:
    """The steps of a run as they stand, by node; items of maps stand under their map."""

    def __init__(self) -> None:
        self._run: Run | None = None
        #: By path, in the order in which they began.
        self._steps: dict[str, RunStep] = {}
        #: Paths of those that are no items, and the items of each map.
        self._tops: list[str] = []
        self._items: defaultdict[str, _Items] = defaultdict(_Items)
        self._over = self._cost = 0
        #: The end of the text that is being written, by path.
        self._texts: dict[str, str] = {}

    def take(self, event: "WatchRunResponse") -> None:
        """Takes one event."""
        if event.HasField("run"):
            self._run = event.run
        if event.HasField("step"):
            self._take_step(event.step)
            self._texts.pop(event.step.path, None)
        if event.HasField("text_delta"):
            delta = event.text_delta
            before = "" if delta.restart else self._texts.get(delta.path, "")
            self._texts[delta.path] = f"{before}{delta.text}"[-_MOST_TEXT:]

    def _take_step(self, step: "RunStep") -> None:
        before, now = self._steps.get(step.path), step_state(step)
        was = "" if before is None else step_state(before)
        self._steps[step.path] = step
        self._over += (now in _OVER) - (was in _OVER)
        self._cost += step.cost_nano_usd - (0 if before is None else before.cost_nano_usd)
        if self._is_item(step.path):
            self._items["/".join(step.path.split("/", 2)[:2])].take(step.path, was, now)
        elif before is None:
            self._tops.append(step.path)

    def drawing(self) -> "RenderableType":
        """Gives the tree as it is to be drawn. Takes no longer for a map of many items."""
        from rich.text import Text
        from rich.tree import Tree

        tree = Tree(Text(self._headline(), style="bold"))
        left_out = len(self._tops) - _MOST_NODES
        if left_out > 0:
            tree.add(Text(f"… {left_out} earlier", style="dim"))
        for path in self._tops[-_MOST_NODES:]:
            branch = tree.add(self._line(path))
            if (items := self._items.get(path)) is not None:
                for item in items.first(_MOST_ITEMS):
                    branch.add(self._line(item))
                if len(items) > _MOST_ITEMS:
                    branch.add(Text(items.counted(), style="dim"))
        return tree

    def _is_item(self, path: str) -> bool:
        return path.startswith("nodes/") and path.count("/") > 1

    def _headline(self) -> str:
        run = self._run
        if run is None:
            return "…"
        done = f"{self._over} of {len(self._steps)} steps done"
        parts = [run.run_id, run.workflow or run.program, run_state(run), done]
        if self._cost:
            parts.append(dollars(self._cost))
        if run.state_message:
            parts.append(run.state_message)
        return plain(" · ".join(parts))

    def _line(self, path: str) -> "RenderableType":
        from rich.text import Text

        step = self._steps[path]
        state = step_state(step)
        mark, style = _LOOKS.get(state, ("?", ""))
        name = path.rpartition("/")[2] if path.startswith("nodes/") else path
        text = " ".join(self._texts.get(path, "").split())
        line = Text(f"{mark} {plain(name)} ", style=style)
        line.append(f"{state}  ", style="dim")
        line.append(step_note(step), style="dim")
        if text:
            line.append(f" {plain(text)}", style="italic")
        return line


class _Items:
    """The items of a map, as they stand."""

    def __init__(self) -> None:
        self._counts = Counter[str]()
        #: What went well, and what is being done or went wrong, which is worth its line before.
        self._well: dict[str, None] = {}
        self._others: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._well) + len(self._others)

    def take(self, path: str, before: str, now: str) -> None:
        """Takes the state of an item; `before` is empty for a new one."""
        self._counts[before] -= 1
        self._counts[now] += 1
        here, there = (self._well, self._others) if now in _WELL else (self._others, self._well)
        there.pop(path, None)
        here[path] = None

    def first(self, most: int) -> list[str]:
        """Gives the items that are shown."""
        return list(islice(chain(self._others, self._well), most))

    def counted(self) -> str:
        """Says how many are in which state."""
        counted = ", ".join(f"{self._counts[state]} {state}" for state in _LOOKS if self._counts[state])
        return f"of {len(self)} begun: {counted}"
