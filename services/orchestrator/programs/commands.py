"""What deciders ask for. The engine turns commands into facts, and calls into outside work."""

from dataclasses import dataclass, field

from google.protobuf.message import Message

from comitia.orchestrator.v1 import journal_pb2, session_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class StartStep:
    """Begins a turn of an agent."""

    path: str
    round: int
    #: `name@version`.
    agent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeCall:
    """Makes an outward call; its answer or failure comes back as a fact."""

    path: str
    index: int
    kind: journal_pb2.CallKind.ValueType
    #: The request without its context, which the engine adds.
    request: Message = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompleteStep:
    """Ends a step with its turn."""

    path: str
    turn: session_pb2.Turn = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailStep:
    """Ends a step without a turn."""

    path: str
    reason: str
    message: str


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


Command = StartStep | MakeCall | CompleteStep | FailStep | ScoreRound | WaitForAdvance | EndRun
