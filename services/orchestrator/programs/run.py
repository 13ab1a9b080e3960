"""A whole run as one decider: routes each fact to the turn it belongs to, or to the program that began the run.

`decide` is the only door: the same facts always give the same commands, on any machine (INV-4).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol

from comitia.orchestrator.v1 import journal_pb2
from services.orchestrator.programs import dialogue, graph, planned_turn, turn
from services.orchestrator.programs.commands import PLANNED_TURN, TURN, Command, FailStep
from services.orchestrator.programs.expressions import Expressions
from services.orchestrator.programs.speaking import Speaking, TurnInputs

Entry = journal_pb2.JournalEntry
Commands = tuple[Command, ...]


class UnknownProgram(Exception):
    """The journal was written by a program or version that this release does not have."""

    reason = "PROGRAM_UNKNOWN"

    def __init__(self, program: str, version: int) -> None:
        super().__init__(f"this release has no program {program!r} version {version}; upgrade or roll back")


class Root(Protocol):
    """What every program knows of its run."""

    started: journal_pb2.RunStarted
    #: True while it waits for AdvanceSession.
    waiting: bool
    #: True once nothing follows any more.
    ended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program that can begin runs. Its state is its own business, hence `Any`."""

    begin: Callable[[Entry], tuple[Any, Commands]]
    #: Takes the next fact, and its name, which is known by then.
    decide: Callable[[Any, str | None, Entry], tuple[Any, Commands]]
    #: Gathers what a turn is made from, at its StepStarted fact.
    inputs_of: Callable[[Any, Entry], TurnInputs]
    #: Says whether the turn at a path is still wanted.
    takes_turn: Callable[[Any, str], bool]
    #: Says what comes of a turn that failed.
    turn_failed: Callable[[Any, FailStep], Commands]
    #: Goes on with other pins, from where a fork parts from the run that it was forked from.
    forked: Callable[[Any, journal_pb2.RunStarted], None]


Programs = Mapping[tuple[str, int], Program]


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnProgram:
    """A program of turns. Its state is its own business beyond what every turn has, hence `Any`."""

    begin: Callable[..., tuple[Any, Commands]]
    decide: Callable[[Any, Entry], tuple[Any, Commands]]
    #: Says whether it is this turn that a signal is for.
    waits_for: Callable[[Any, journal_pb2.SignalReceived], bool]


#: Every program that can make a turn, by name and version. Old versions stay until no run needs them.
_TURNS: Final[Mapping[tuple[str, int], TurnProgram]] = {
    (TURN, turn.VERSION): TurnProgram(begin=turn.begin, decide=turn.decide, waits_for=turn.waits_for),
    (PLANNED_TURN, planned_turn.VERSION): TurnProgram(
        begin=planned_turn.begin, decide=planned_turn.decide, waits_for=planned_turn.waits_for
    ),
}
#: Facts that turns decide on.
_OF_TURNS: Final = frozenset({"call_answered", "call_failed", "call_held", "call_decided"})
#: Facts in which a turn records what it has decided: nobody decides on them again.
_DECIDED: Final = frozenset({"call_intended", *planned_turn.DECIDED})


def programs(plans: graph.Plans) -> Programs:
    """Lists every program that can begin a run, by name and version. Old versions stay until no run needs them."""
    return {
        (dialogue.NAME, dialogue.VERSION): Program(
            begin=dialogue.begin,
            decide=dialogue.decide,
            inputs_of=dialogue.inputs_of,
            takes_turn=dialogue.takes_turn,
            turn_failed=dialogue.turn_failed,
            forked=dialogue.forked,
        ),
        (graph.NAME, graph.VERSION): Program(
            begin=partial(graph.begin, plans),
            decide=graph.decide,
            inputs_of=graph.inputs_of,
            takes_turn=graph.takes_turn,
            turn_failed=graph.turn_failed,
            forked=graph.forked,
        ),
    }


@dataclass(slots=True)
class Turn:
    """A turn in progress."""

    program: TurnProgram
    state: Speaking


@dataclass(slots=True)
class RunState:
    """Where a run is: its root program and the turns in progress. Changed by `decide` only."""

    root: Root | None = None
    program: Program | None = None
    #: By path; a turn that was given up stays until its step goes on, for its calls have been counted.
    turns: dict[str, Turn] = field(default_factory=dict[str, Turn])
    programs: Programs = field(default_factory=lambda: PROGRAMS, repr=False)


def decide(state: RunState, entry: Entry) -> tuple[RunState, Commands]:
    """Takes the next fact of a run and says what it asks for.

    Raises: UnknownProgram: the run was started by a program version that is not here.
    """
    fact = entry.WhichOneof("fact")
    root, program = state.root, state.program
    if root is None or program is None:
        return state, _begin(state, entry)
    if fact in _DECIDED or root.ended:
        return state, ()
    turns = state.turns
    if fact in _OF_TURNS:
        # Of all facts that ask for a decision there are the most of these.
        if turns and entry.path in turns and program.takes_turn(root, entry.path):
            return state, _on_turn(state, program, entry)
        return state, _by_root(state, program, fact, entry)
    if fact == "run_abandoned":
        turns.clear()
        root.ended = True
        return state, ()
    if fact == "run_forked":
        program.forked(root, entry.run_forked.started)
        for speaking in turns.values():
            speaking.state.forked()
        return state, ()
    if fact == "step_started":
        # What the root program carries out itself, it has begun already.
        own = entry.step_started.program == root.started.program
        return state, () if own else _begin_turn(state, program, entry)
    if fact == "signal_received":
        for waiting in turns.values():
            if waiting.program.waits_for(waiting.state, entry.signal_received):
                return state, _decided(state, program, waiting, entry)
    if fact in ("step_completed", "step_failed"):
        turns.pop(entry.path, None)
    return state, _by_root(state, program, fact, entry)


def _by_root(state: RunState, program: Program, fact: str | None, entry: Entry) -> Commands:
    root, commands = program.decide(state.root, fact, entry)
    state.root = root
    if root.ended:
        state.turns.clear()
    return commands


def _begin(state: RunState, entry: Entry) -> Commands:
    if entry.WhichOneof("fact") != "run_started":
        raise ValueError("the first fact of a run is RunStarted")
    started = entry.run_started
    program = state.programs.get((started.program, started.program_version))
    if program is None:
        raise UnknownProgram(started.program, started.program_version)
    state.program = program
    state.root, commands = program.begin(entry)
    return commands


def _begin_turn(state: RunState, program: Program, entry: Entry) -> Commands:
    started = entry.step_started
    deciding = _TURNS.get((started.program, started.program_version))
    if deciding is None:
        raise UnknownProgram(started.program, started.program_version)
    before = state.turns.get(entry.path)
    first_call = 0 if before is None else before.state.calls_made
    speaking, commands = deciding.begin(program.inputs_of(state.root, entry), entry, first_call=first_call)
    state.turns[entry.path] = Turn(deciding, speaking)
    return _handed_on(state, program, commands)


def _on_turn(state: RunState, program: Program, entry: Entry) -> Commands:
    speaking = state.turns[entry.path]
    if entry.HasField("call_answered") or entry.HasField("call_failed"):
        fact = entry.call_answered if entry.HasField("call_answered") else entry.call_failed
        if not speaking.state.hears(fact.call_index):
            return ()
    return _decided(state, program, speaking, entry)


def _decided(state: RunState, program: Program, speaking: Turn, entry: Entry) -> Commands:
    speaking.state, commands = speaking.program.decide(speaking.state, entry)
    return _handed_on(state, program, commands)


def _handed_on(state: RunState, program: Program, commands: Commands) -> Commands:
    """Asks the root program what comes of a turn that failed."""
    match commands:
        case (*decided, FailStep() as failed):
            return (*decided, *program.turn_failed(state.root, failed))
        case _:
            return commands


#: Plans of workflows, for all runs of this process.
PLANS: Final = graph.Plans(Expressions)
#: What this release can drive.
PROGRAMS: Final = programs(PLANS)
