"""Rules that compare numbers."""

import operator
from collections.abc import Callable, Mapping
from typing import Final

from services.policy.domain.subject import Stage
from services.policy.rules.spec import ResourceRule, ThresholdRule

_OPERATORS: Final[dict[str, Callable[[float, float], bool]]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}


def own_measures(stage: Stage, content_bytes: int, parts: int) -> dict[str, float]:
    """Gives what policy counts itself, whatever the caller says: bytes of text, and parts."""
    size = "prompt_bytes" if stage is Stage.BEFORE else "output_bytes"
    return {"content_bytes": content_bytes, size: content_bytes, "parts": parts}


def exceeded(rule: ResourceRule, measures: Mapping[str, float]) -> str:
    """Says which limits are exceeded, empty for none. A measure that nobody took exceeds nothing."""
    over = [
        f"{name} is {_number(measures[name])}, at most {_number(limit)} is allowed"
        for name, limit in rule.params.items()
        if measures.get(name, limit) > limit
    ]
    return "; ".join(over)


def crossed(rule: ThresholdRule, measures: Mapping[str, float]) -> str:
    """Says that the comparison holds, empty when it does not or nobody took the measure."""
    params = rule.params
    value = measures.get(params.measure)
    if value is None or not _OPERATORS[params.operator](value, params.value):
        return ""
    return f"{params.measure} is {_number(value)}, which is {params.operator} {_number(params.value)}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"
