"""Where a planned turn is, and what it asks for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import language
from google.protobuf.message import Message
from values import BOTTOM, Filled, Value

from services.meshkit.content import Label


@dataclass(frozen=True, slots=True)
class Record:
    """A decision that is a fact by itself."""

    fact: Message


@dataclass(frozen=True, slots=True)
class MakeCall:
    """An outward call; its CallIntended is the fact."""

    intended: Message


Command = Record | MakeCall


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """What the turn is made from, fixed at its start."""

    tools: Mapping[str, Mapping[str, Any]]
    #: `path` by the tool's definition, `result` one label for a whole result, `context` the join of all read so far.
    labelling: str = "path"
    allowed: frozenset[str] = language.VERBS


@dataclass(slots=True, kw_only=True)
class Frame:
    """Steps in a row that are being worked through."""

    steps: list[dict[str, Any]]
    #: Where the steps are in the plan; ends with `/` unless it is the plan itself.
    path: str
    #: Label of what led here.
    choice: Label
    scope: dict[str, Value]
    at: int = 0
    #: The step of the frame below that opened this one, and where it stands.
    owner: dict[str, Any] = field(default_factory=dict)
    place: str = ""
    items: list[Value] = field(default_factory=list)
    given: list[Value] = field(default_factory=list)
    turn: int = 0
    taken: bool = False


@dataclass(slots=True, kw_only=True)
class State:
    """Where a planned turn is. Changed by `decide` only."""

    pinned: Pinned
    request: str = ""
    #: Label of the request.
    label: Label = BOTTOM
    #: Label of the plan in force.
    plan_label: Label = BOTTOM
    #: Join of all results so far.
    context: Label = BOTTOM
    plans: int = 0
    calls: int = 0
    frames: list[Frame] = field(default_factory=list)
    #: The step whose answer is awaited, and its place.
    step: dict[str, Any] = field(default_factory=dict)
    place: str = ""
    options: list[Value] = field(default_factory=list)
    arguments: Filled | None = None
    #: Values to be shown to the planner, by name, and the one that a person has to read first.
    shown: dict[str, Value] = field(default_factory=dict)
    unread: str = ""
    answer: Filled | None = None
    ended: bool = False
