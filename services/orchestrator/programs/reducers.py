"""Reductions of a list of values to one. Values are taken as they are; nothing is guessed."""

import json
from collections.abc import Callable, Mapping, Sequence
from math import fsum
from typing import Final, cast

from comitia.orchestrator.v1 import workflow_pb2
from services.orchestrator.programs.values import Json


class CannotReduce(Exception):
    """Values do not fit their reducer. The sentence holds none of them."""


def reduced(reducer: workflow_pb2.Reducer.ValueType, items: Sequence[Json]) -> Json:
    """Reduces values, in order. Raises: CannotReduce."""
    return _REDUCERS[reducer](items)


def _concat(items: Sequence[Json]) -> Json:
    if all(isinstance(item, str) for item in items):
        return "\n".join(cast("Sequence[str]", items)) if items else []
    if not all(isinstance(item, list) for item in items):
        raise CannotReduce("CONCAT takes lists alone or texts alone")
    return [part for item in cast("Sequence[list[Json]]", items) for part in item]


def _merge(items: Sequence[Json]) -> Json:
    merged: dict[str, Json] = {}
    for item in items:
        if not isinstance(item, dict):
            raise CannotReduce("MERGE takes objects alone")
        merged.update(cast("dict[str, Json]", item))
    return merged


def _first(items: Sequence[Json]) -> Json:
    return next((item for item in items if item is not None), None)


def _last(items: Sequence[Json]) -> Json:
    return _first(items[::-1])


def _count(items: Sequence[Json]) -> Json:
    return sum(item is not None for item in items)


def _numbers(items: Sequence[Json], name: str) -> Sequence[int | float]:
    for item in items:
        if isinstance(item, bool) or not isinstance(item, int | float):
            raise CannotReduce(f"{name} takes numbers alone")
    return cast("Sequence[int | float]", items)


def _sum(items: Sequence[Json]) -> Json:
    numbers = _numbers(items, "SUM")
    try:
        # Rounded once, so that the order of terms does not matter.
        return sum(numbers) if all(isinstance(number, int) for number in numbers) else fsum(numbers)
    except OverflowError as cause:
        raise CannotReduce("the SUM is too large for a number") from cause


def _least(items: Sequence[Json]) -> Json:
    if not items:
        raise CannotReduce("there is nothing to take the MIN of")
    return min(_numbers(items, "MIN"))


def _greatest(items: Sequence[Json]) -> Json:
    if not items:
        raise CannotReduce("there is nothing to take the MAX of")
    return max(_numbers(items, "MAX"))


def _majority(items: Sequence[Json]) -> Json:
    if not items:
        raise CannotReduce("there is nothing to take the MAJORITY of")
    votes: dict[str, int] = {}
    first: dict[str, Json] = {}
    for item in items:
        key = json.dumps(item, sort_keys=True)
        votes[key] = votes.get(key, 0) + 1
        first.setdefault(key, item)
    # Of several with as many votes, `max` takes the one that came first.
    return first[max(votes, key=lambda key: votes[key])]


_REDUCERS: Final[Mapping[int, Callable[[Sequence[Json]], Json]]] = {
    workflow_pb2.REDUCER_COLLECT: list,
    workflow_pb2.REDUCER_CONCAT: _concat,
    workflow_pb2.REDUCER_MERGE: _merge,
    workflow_pb2.REDUCER_FIRST: _first,
    workflow_pb2.REDUCER_LAST: _last,
    workflow_pb2.REDUCER_COUNT: _count,
    workflow_pb2.REDUCER_SUM: _sum,
    workflow_pb2.REDUCER_MIN: _least,
    workflow_pb2.REDUCER_MAX: _greatest,
    workflow_pb2.REDUCER_MAJORITY: _majority,
}
