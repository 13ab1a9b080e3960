"""A whole run as one decider: routes each fact to the turn it belongs to, or to the session.

`decide` is the only door: the same facts always give the same commands, on any machine (INV-4).
"""

from dataclasses import dataclass, field

from comitia.orchestrator.v1 import journal_pb2
from services.orchestrator.programs import dialogue, turn
from services.orchestrator.programs.commands import Command


class UnknownProgram(Exception):
    """The journal was written by a program or version that this release does not have."""

    reason = "PROGRAM_UNKNOWN"

    def __init__(self, program: str, version: int) -> None:
        super().__init__(f"this release has no program {program!r} version {version}; upgrade or roll back")


@dataclass(slots=True)
class RunState:
    """Where a run is: its session and the turns in progress. Changed by `decide` only."""

    session: dialogue.DialogueState | None = None
    turns: dict[str, turn.TurnState] = field(default_factory=dict[str, turn.TurnState])


def decide(state: RunState, entry: journal_pb2.JournalEntry) -> tuple[RunState, tuple[Command, ...]]:
    """Takes the next fact of a run and says what it asks for.

    Raises: UnknownProgram: the run was started by a program version that is not here.
    """
    fact = entry.WhichOneof("fact")
    if fact == "run_started":
        _refuse_unknown(entry.run_started.program, dialogue.NAME, entry.run_started.program_version, dialogue.VERSION)
        state.session, commands = dialogue.begin(entry)
        return state, commands
    if state.session is None:
        raise ValueError("the first fact of a run is RunStarted")
    if fact == "run_abandoned":
        state.turns.clear()
        state.session.ended = True
        return state, ()
    if fact == "step_started":
        _refuse_unknown(entry.step_started.program, "turn", entry.step_started.program_version, turn.VERSION)
        inputs = dialogue.inputs_of(state.session, entry.step_started)
        state.turns[entry.path], commands = turn.begin(entry.path, inputs, entry)
        return state, commands
    if fact in ("call_answered", "call_failed") and entry.path in state.turns:
        state.turns[entry.path], commands = turn.decide(state.turns[entry.path], entry)
        return state, commands
    if fact in ("step_completed", "step_failed"):
        state.turns.pop(entry.path, None)
    if fact == "run_ended":
        state.turns.clear()
    state.session, commands = dialogue.decide(state.session, entry)
    return state, commands


def _refuse_unknown(program: str, known: str, version: int, known_version: int) -> None:
    if (program, version) != (known, known_version):
        raise UnknownProgram(program, version)
