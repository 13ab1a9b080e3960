"""What a plan is made of, once it is checked."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from services.orchestrator.programs.planned_kinds import Kind
from services.orchestrator.programs.values import Json


class PlanNotTaken(Exception):
    """What a planner wrote is no plan. `reason` and `place` name what it has to mend."""

    def __init__(self, reason: str, place: str = "") -> None:
        super().__init__(f"{reason} at {place!r}")
        self.reason, self.place = reason, place


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a plan."""

    #: Name of its value; empty for none.
    name: str = ""
    #: Its part of a place: the name, or `#n`.
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Step):
    """Calls a tool."""

    tool: str
    arguments: Mapping[str, Json]
    may_fail: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Extract(Step):
    """Has typed fields read out of texts."""

    reading: Sequence[Json]
    fields: Mapping[str, Kind]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choose(Step):
    """Has one of a closed list picked."""

    #: A reference to a list, or what is to be picked from.
    options: str | Sequence[Json]
    by: str
    reading: Sequence[Json]
    #: Key of each option that is shown in place of the whole; empty for the whole.
    show: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two values and how they are to stand to each other."""

    how: str
    value: Json
    than: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class If(Step):
    """One of two rows of steps."""

    conditions: Sequence[Comparison]
    then: Sequence[Step]
    otherwise: Sequence[Step]
    #: What it gives after `then`, and after `else`.
    gives: tuple[Json, Json] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Map(Step):
    """The same steps for each item of a list."""

    #: A reference to a list, or the list.
    over: str | Sequence[Json]
    item: str
    at_most: int
    do: Sequence[Step]
    gives: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat(Step):
    """The same steps until a comparison holds."""

    at_most: int
    #: What each round begins with: in the first, and in those after.
    carry: Mapping[str, tuple[Json, Json]]
    do: Sequence[Step]
    until: Sequence[Comparison]
    gives: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Replan(Step):
    """Asks for the rest of the plan."""

    #: References by the name under which the planner sees what they refer to.
    shown: Mapping[str, str]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Step):
    """What the user reads."""

    template: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A plan that was checked whole."""

    steps: Sequence[Step]
    #: Nested steps included.
    count: int
    #: As it was written, for its digest.
    written: Json = field(repr=False)


def nested(steps: Iterable[Step]) -> Iterable[Step]:
    """Walks over steps with all that are inside of them."""
    for step in steps:
        yield step
        match step:
            case If():
                yield from nested([*step.then, *step.otherwise])
            case Map() | Repeat():
                yield from nested(step.do)
            case _:
                pass
