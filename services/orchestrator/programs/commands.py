"""What deciders ask for. The engine turns commands into facts, and calls into outside work."""

from dataclasses import dataclass, field
from typing import Final

from google.protobuf import struct_pb2
from google.protobuf.message import Message

from comitia.common.v1 import content_pb2
from comitia.orchestrator.v1 import journal_pb2, session_pb2

#: Program of a step that is a turn of an agent; see `turn.py`.
TURN: Final = "turn"
#: The same for an agent that plans; see `planned_turn.py`.
PLANNED_TURN: Final = "planned_turn"

#: Calls that ask a model: a request to StreamGenerate, answered by a generation.
MODEL_CALLS: Final = frozenset(
    {
        journal_pb2.CALL_KIND_GENERATE,
        journal_pb2.CALL_KIND_PLAN,
        journal_pb2.CALL_KIND_EXTRACT,
        journal_pb2.CALL_KIND_CHOOSE,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartStep:
    """Begins a step, or begins it again after an attempt that failed."""

    path: str
    #: Decides the step: `turn`, `planned_turn`, or the name of the root program for what it carries out itself.
    program: str = TURN
    round: int = 0
    #: `name@version`.
    agent: str = ""
    prompt: str = field(default="", repr=False)
    #: From 1; 0 means 1.
    attempt: int = 0
    attempt_group: int = 0


@dataclass(slots=True)
class MakeCall:
    """Makes an outward call; its answer or failure comes back as a fact. Not to be changed once it is given out."""

    path: str
    index: int
    kind: journal_pb2.CallKind.ValueType
    #: The encoded request without its context, which the engine adds.
    request: bytes = field(repr=False)
    #: True for the first call of a step that is recorded by its calls alone.
    begins_step: bool = False
    #: From 1; 0 means 1.
    attempt: int = 0
    attempt_group: int = 0
    #: SHA-256 of the request, where it is known; else empty.
    digest: bytes = b""
    origin: "Origin | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a call of a plan stands in it, and what led to it."""

    place: str
    choice_label: content_pb2.Label
    arguments: tuple[journal_pb2.ArgumentOrigin, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordDecision:
    """Records a decision of a planned turn: what a plan came to at a place."""

    path: str
    #: A fact without path and time. Not to be changed once it is given out.
    fact: journal_pb2.JournalEntry = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompleteStep:
    """Ends a step with its result."""

    path: str
    turn: session_pb2.Turn | None = field(default=None, repr=False)
    #: What it gives, where that is neither the turn's text nor the answer of a call as it stands.
    output: struct_pb2.Value | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailStep:
    """Ends a step without a result."""

    path: str
    reason: str
    message: str
    #: True when the same would fail again. For the root program, which may try again otherwise; not recorded.
    final: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkStep:
    """Sets a step aside that failed in all its attempts, until somebody lets the run go on."""

    path: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SkipStep:
    """Passes a step over."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpandMap:
    """Records how many items a map has."""

    path: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTimer:
    """Waits for a moment. A path has one timer: this one takes the place of the one before."""

    path: str
    timer: str
    milliseconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRound:
    """Records the similarity of a round's turns."""

    score: session_pb2.RoundScore


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitForAdvance:
    """Waits until somebody begins the next round."""

    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EndRun:
    """Ends the run; nothing follows."""

    state: session_pb2.SessionState.ValueType
    reason: str = ""
    message: str = ""
    topic_final: str = ""
    converged: bool = False
    output: struct_pb2.Value | None = field(default=None, repr=False)
    output_label: content_pb2.Label | None = None


Command = (
    MakeCall
    | RecordDecision
    | StartStep
    | CompleteStep
    | FailStep
    | ParkStep
    | SkipStep
    | ExpandMap
    | StartTimer
    | ScoreRound
    | WaitForAdvance
    | EndRun
)


def encoded(message: Message) -> bytes:
    """Writes a request so that the same one always has the same bytes."""
    return message.SerializeToString(deterministic=True)
