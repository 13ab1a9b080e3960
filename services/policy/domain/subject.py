"""What is judged."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from services.meshkit.content import CallContext, Part


class Stage(IntEnum):
    """Where in a call the law looks. Numbers are those of the contract."""

    BEFORE = 1
    DURING = 2
    AFTER = 3


class Operation(IntEnum):
    """What the subject is doing. Numbers are those of the contract."""

    GENERATE = 1
    INVOKE_TOOL = 2
    REMEMBER = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Content on its way, with the numbers that are known about it."""

    operation: Operation
    stage: Stage
    parts: tuple[Part, ...]
    #: What resource and threshold rules compare, such as `output_tokens`; all finite.
    measures: Mapping[str, float] = field(default_factory=dict[str, float])
    context: CallContext
    #: Name of the tool or model; empty when not told.
    target: str = ""
