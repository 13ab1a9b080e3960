"""Reads what a run took that has ended, for estimates to learn from."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from comitia.common.v1 import usage_pb2
from comitia.orchestrator.v1 import run_pb2
from services.orchestrator.domain.run_shape import RunShape, SeenRun, SeenTurn

#: Steps during which nothing is done for the run, or that have steps of their own.
_IDLE: Final = frozenset({run_pb2.STEP_KIND_WAIT, run_pb2.STEP_KIND_MAP, run_pb2.STEP_KIND_AGGREGATE})
#: Turns and other work of one run that are given at most.
_MOST_TURNS: Final = 1_000


def seen_run(run: run_pb2.Run, steps: Sequence[run_pb2.RunStep], shape: RunShape) -> SeenRun:
    """Reads a run.

    Args:
        steps: all of its steps.
    """
    places = {part.place: place for place, part in enumerate(shape.parts)}
    usage = run.usage
    turns: list[SeenTurn] = []
    made: dict[int, int] = dict.fromkeys(range(len(shape.parts)), 0)
    for step in steps:
        place = _place(step, places)
        if place is None or step.state != run_pb2.STEP_STATE_SUCCEEDED:
            continue
        if step.kind == run_pb2.STEP_KIND_MAP:
            continue  # counted by its items
        made[place] += 1
        if len(turns) < _MOST_TURNS and (shape.parts[place].turn is not None or shape.parts[place].work):
            turns.append(_turn(step, place))
    return SeenRun(
        totals=(
            float(_read(usage)),
            float(usage.output_tokens + usage.reasoning_tokens + usage.audio_out_tokens),
            float(run.cost_nano_usd),
            _busy(step for step in steps if step.kind not in _IDLE).total_seconds(),
        ),
        turns=turns,
        made=made,
    )


def _place(step: run_pb2.RunStep, places: Mapping[str, int]) -> int | None:
    """Finds the part of the shape that a step belongs to."""
    kind, _, rest = step.path.partition("/")
    if kind == "nodes":
        return places.get(f"nodes/{rest.partition('/')[0]}")
    if step.agent:
        name = step.agent.partition("@")[0]
        return places.get(f"speaks/{name}", places.get(f"moderates/{name}"))
    return places.get("picks")


def _turn(step: run_pb2.RunStep, place: int) -> SeenTurn:
    return SeenTurn(
        part=place,
        input_tokens=_read(step.usage),
        output_tokens=step.usage.output_tokens + step.usage.reasoning_tokens + step.usage.audio_out_tokens,
        seconds=(_end(step) - _start(step)).total_seconds(),
        cost=step.cost_nano_usd,
    )


def _read(usage: usage_pb2.Usage) -> int:
    """Adds up what a model read, from a cache or not."""
    return (
        usage.input_tokens
        + usage.cache_read_tokens
        + usage.cache_write_5m_tokens
        + usage.cache_write_1h_tokens
        + usage.audio_in_tokens
        + usage.image_tokens
    )


def _busy(steps: Iterable[run_pb2.RunStep]) -> timedelta:
    """Adds up the time during which at least one step was made."""
    spans = sorted((_start(step), _end(step)) for step in steps if step.HasField("end_time"))
    total, until = timedelta(), datetime.min.replace(tzinfo=UTC)
    for start, end in spans:
        if end > until:
            total += end - max(start, until)
            until = end
    return total


def _start(step: run_pb2.RunStep) -> datetime:
    return step.start_time.ToDatetime(tzinfo=UTC)


def _end(step: run_pb2.RunStep) -> datetime:
    return step.end_time.ToDatetime(tzinfo=UTC)
