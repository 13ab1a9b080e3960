"""Where a planned turn is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from google.protobuf import struct_pb2

from comitia.common.v1 import content_pb2
from comitia.orchestrator.v1 import journal_pb2
from services.meshkit.content import Label
from services.meshkit.content.label import BOTTOM
from services.orchestrator.programs.commands import Command, RecordDecision
from services.orchestrator.programs.planned_plan import Plan, Step
from services.orchestrator.programs.planned_values import Filled, PlanStopped, Value
from services.orchestrator.programs.speaking import Speaking


@dataclass(slots=True, kw_only=True)
class Frame:
    """Steps in a row that are being worked through."""

    steps: Sequence[Step]
    #: Where the steps are in the plan; ends with `/` unless it is the plan itself.
    path: str
    #: Label of what led here.
    choice: Label
    scope: dict[str, Value]
    at: int = 0
    #: The step that opened this frame, and its place. None for the plan itself.
    owner: Step | None = None
    place: str = ""
    #: Of a map: its items, and what those that are done gave, with its bytes.
    items: Sequence[Value] = ()
    given: list[Value] = field(default_factory=list[Value])
    given_bytes: int = 0
    #: Of a loop: its round, from 1.
    turn: int = 0
    #: Of a condition: what came of it.
    taken: bool = False


@dataclass(slots=True, kw_only=True)
class PlannedState(Speaking):
    """Where a planned turn is. Changed by `planned_turn.decide` only."""

    #: What the turn has decided since the last fact.
    out: list[Command] = field(default_factory=list[Command])
    #: Label of the plan in force.
    plan_label: Label = BOTTOM
    plans: int = 0
    #: Answers of the planner that were none.
    refused: int = 0
    #: Steps that were begun.
    steps_begun: int = 0
    tool_calls_left: int = 0
    #: Values that the planner may only refer to, since they were written outside.
    withheld: dict[str, Value] = field(default_factory=dict[str, Value])
    frames: list[Frame] = field(default_factory=list[Frame])
    #: The step that is being made, and its place.
    step: Step | None = None
    place: str = ""
    options: Sequence[Value] = ()
    arguments: Filled | None = None
    #: Values to be shown to the planner, by name, and those of them that a person has to read first.
    shown: dict[str, Value] = field(default_factory=dict[str, Value])
    unread: list[str] = field(default_factory=list[str])
    references_shown: Mapping[str, str] = field(default_factory=dict[str, str])
    answer: Filled | None = None
    #: Label of what decided whether an answer is given.
    answer_choice: Label = BOTTOM
    #: The plan in force, and the arguments of the latest tool call.
    plan: Plan | None = None
    sent: struct_pb2.Struct = field(default_factory=struct_pb2.Struct)
    #: The answer as it was given to memory.
    said: content_pb2.Part = field(default_factory=content_pb2.Part)

    @property
    def scopes(self) -> list[dict[str, Value]]:
        """The names that are seen here, innermost first."""
        return [frame.scope for frame in reversed(self.frames)]

    @property
    def choice(self) -> Label:
        """Label of what led to where the turn is."""
        return self.frames[-1].choice if self.frames else self.plan_label

    def record(self, fact: journal_pb2.JournalEntry) -> None:
        """Records a decision."""
        self.out.append(RecordDecision(path=self.path, fact=fact))

    def read(self) -> Label:
        """Gives what the model that was asked last has read."""
        if self.arguments is None:
            raise PlanStopped("PLAN_OUT_OF_STEP", "a model answered what nobody asked")
        return self.arguments.read
