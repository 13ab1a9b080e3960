"""Programs that decide otherwise are caught by a replay, which names the step where they part from the record."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from comitia.inference.v1 import inference_service_pb2
from comitia.orchestrator.v1 import journal_pb2, record_pb2, session_pb2
from services.orchestrator.programs import dialogue, graph, speaking, turn
from services.orchestrator.programs import run as program
from services.orchestrator.programs.commands import (
    MODEL_CALLS,
    Command,
    CompleteStep,
    EndRun,
    MakeCall,
    RecordDecision,
    ScoreRound,
    SkipStep,
    StartStep,
    StartTimer,
    encoded,
)
from services.orchestrator.record.replaying import Rerun
from tests.support.record_histories import FOLDER
from tests.unit.orchestrator.record.test_histories import entries_of

Entry = journal_pb2.JournalEntry
Commands = tuple[Command, ...]
NAMES = sorted(path.stem for path in FOLDER.glob("*.comitia"))


def rerun(name: str) -> record_pb2.Replay:
    replay = Rerun(name)
    for entry in entries_of(FOLDER / f"{name}.comitia"):
        replay.take_fact(entry)
    return replay.finish()


def path_of(command: Command) -> str:
    return getattr(command, "path", "")


@dataclass(slots=True)
class Mutant:
    """Changes what programs decide, once; notes at which step."""

    change: Callable[[Commands], tuple[Commands, str] | None]
    #: The step whose decision was changed; None before.
    touched: str | None = None
    real: Callable[..., Any] = field(default=program.decide)

    def decide(self, state: program.RunState, entry: Entry) -> tuple[program.RunState, Commands]:
        """Decides as the programs do, until there is something to change."""
        state, commands = self.real(state, entry)
        if self.touched is None:
            changed = self.change(commands)
            if changed is not None:
                commands, self.touched = changed
        return state, commands


def first(commands: Commands, kind: type[Command] | tuple[type[Command], ...]) -> int | None:
    return next((index for index, command in enumerate(commands) if isinstance(command, kind)), None)


def removed(*kinds: type[Command]) -> Callable[[Commands], tuple[Commands, str] | None]:
    def change(commands: Commands) -> tuple[Commands, str] | None:
        at = first(commands, kinds)
        return None if at is None else ((*commands[:at], *commands[at + 1 :]), path_of(commands[at]))

    return change


def reordered(commands: Commands) -> tuple[Commands, str] | None:
    if len(commands) < 2 or path_of(commands[0]) == path_of(commands[-1]):
        return None
    return tuple(reversed(commands)), path_of(commands[-1])


def new_step(commands: Commands) -> tuple[Commands, str] | None:
    if first(commands, StartStep) is None:
        return None
    return (*commands, SkipStep(path="nodes/smuggled", reason="CONDITION_FALSE")), "nodes/smuggled"


def twice(commands: Commands) -> tuple[Commands, str] | None:
    at = first(commands, MakeCall)
    return None if at is None else ((*commands, commands[at]), path_of(commands[at]))


def asked_otherwise(
    change: Callable[[inference_service_pb2.StreamGenerateRequest], None],
) -> Callable[[Commands], tuple[Commands, str] | None]:
    def mutate(commands: Commands) -> tuple[Commands, str] | None:
        for command in commands:
            if isinstance(command, MakeCall) and command.kind in MODEL_CALLS:
                request = inference_service_pb2.StreamGenerateRequest.FromString(command.request)
                change(request)
                command.request = encoded(request)
                return commands, command.path
        return None

    return mutate


def by_the_clock(request: inference_service_pb2.StreamGenerateRequest) -> None:
    request.messages[-1].parts[0].text.text += f" It is {time.time_ns()}."


def by_dice(request: inference_service_pb2.StreamGenerateRequest) -> None:
    request.temperature = random.SystemRandom().uniform(0.1, 0.9)


def by_another_limit(request: inference_service_pb2.StreamGenerateRequest) -> None:
    request.max_output_tokens += 1


def without_label(request: inference_service_pb2.StreamGenerateRequest) -> None:
    request.messages[-1].parts[0].ClearField("label")


def ended_otherwise(commands: Commands) -> tuple[Commands, str] | None:
    at = first(commands, EndRun)
    return None if at is None else ((*commands[:at], EndRun(state=session_pb2.SESSION_STATE_CANCELLED)), "")


def waits_longer(commands: Commands) -> tuple[Commands, str] | None:
    at = first(commands, StartTimer)
    if at is None:
        return None
    timer = commands[at]
    assert isinstance(timer, StartTimer)
    longer = StartTimer(path=timer.path, timer=timer.timer, milliseconds=timer.milliseconds + 1)
    return (*commands[:at], longer, *commands[at + 1 :]), timer.path


#: Changes of what is decided, and histories in which there is something to change.
MUTANTS: dict[str, tuple[Callable[[Commands], tuple[Commands, str] | None], int]] = {
    "a step is not begun": (removed(StartStep), 15),
    "a call is not made": (removed(MakeCall), 16),
    "a step does not end": (removed(CompleteStep), 15),
    "a round is not scored": (removed(ScoreRound), 12),
    "a decision of a plan is not recorded": (removed(RecordDecision), 3),
    "a step is not skipped": (removed(SkipStep), 1),
    "the run does not end": (removed(EndRun), 14),
    "decisions change places": (reordered, 5),
    "a step is new": (new_step, 15),
    "a call is made twice": (twice, 16),
    "the prompt has the time in it": (asked_otherwise(by_the_clock), 14),
    "the temperature is left to chance": (asked_otherwise(by_dice), 14),
    "the answer may be longer": (asked_otherwise(by_another_limit), 14),
    "the prompt has lost its label": (asked_otherwise(without_label), 14),
    "the run ends otherwise": (ended_otherwise, 14),
    "a timer is longer": (waits_longer, 4),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_program_that_decides_otherwise_is_caught_at_its_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, at_least = MUTANTS[name]
    touched = 0
    for history in NAMES:
        mutant = Mutant(change)
        monkeypatch.setattr(program, "decide", mutant.decide)
        report = rerun(history)
        if mutant.touched is None:
            assert report.same, f"{history} has nothing to change"
            continue
        touched += 1
        assert not report.same, f"{history} hides that {name}"
        assert mutant.touched in {drift.path for drift in report.drifts}, f"{history}: {report.drifts}"
        assert [drift.sequence for drift in report.drifts] == sorted(drift.sequence for drift in report.drifts)
    assert touched >= at_least


def other_order(real: Callable[..., Any]) -> Callable[..., Any]:
    """Gives commands in the order of a dict that was filled otherwise."""

    def mutated(*args: Any, **kwargs: Any) -> Any:
        return tuple(reversed(real(*args, **kwargs)))

    return mutated


def later_first(heap: list[int]) -> int:
    """Takes nodes in the order in which a set may give them."""
    return heap.pop()


def timed(real: Callable[..., str]) -> Callable[..., str]:
    return lambda *args, **kwargs: f"{real(*args, **kwargs)} ({time.monotonic_ns()})"


def diced(real: Callable[..., float]) -> Callable[..., float]:
    return lambda *args: real(*args) * random.SystemRandom().uniform(0.1, 0.9)


#: Faults inside a program, a history that shows each, and the step that is named first.
FAULTS: Sequence[tuple[str, Any, str, Callable[[Any], Any], str, str]] = (
    ("speakers in the order of a set", dialogue, "_next_round", other_order, "brainstorm", "rounds/1/Apollo"),
    ("nodes in the order of a set", graph, "heappop", lambda _: later_first, "parked_and_resumed", "nodes/right"),
    ("the time in a prompt", turn, "render_prompt", timed, "debate", "rounds/1/Athena"),
    ("the time in a prompt of a workflow", turn, "render_prompt", timed, "not_strict", "nodes/each/0"),
    ("a similarity that was thrown", dialogue, "mean_pairwise_jaccard", diced, "debate", ""),
    ("a similarity of letters", dialogue, "words_of", lambda _: lambda text: frozenset(str(text)), "debate", ""),
    ("a longer memory", dialogue, "_DEFAULT_RECENT_TURNS", lambda _: 7, "debate", "rounds/1/Athena"),
    ("fewer calls of tools", turn, "_DEFAULT_TOOL_CALLS", lambda _: 0, "tools_and_style", "rounds/1/Athena"),
    ("ids made otherwise", speaking, "_turn_id", lambda _: lambda *_args: "turn_x", "debate", "rounds/1/Athena"),
)


@pytest.mark.parametrize(
    ("name", "where", "what", "fault", "history", "path"), FAULTS, ids=[fault[0] for fault in FAULTS]
)
def test_a_fault_inside_a_program_is_caught_and_the_first_drift_names_its_step(
    name: str,
    where: Any,
    what: str,
    fault: Callable[[Any], Any],
    history: str,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(where, what, fault(getattr(where, what)))
    report = rerun(history)
    assert not report.same, name
    assert report.drifts[0].path == path, report.drifts[0]
    assert all(drift.message for drift in report.drifts)


def test_a_drift_shows_the_values_that_differ_around_their_first_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialogue, "_DEFAULT_RECENT_TURNS", 7)
    drift = rerun("debate").drifts[0]
    assert (drift.kind, drift.fact) == (record_pb2.DRIFT_KIND_CHANGED, "call_intended")
    [changed] = drift.fields
    assert (changed.field, changed.before, changed.after) == ("request.recent_turns", "6", "7")


def test_a_program_of_a_version_that_is_not_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "PROGRAMS", {})
    replay = Rerun("debate", {})
    for entry in entries_of(FOLDER / "debate.comitia"):
        replay.take_fact(entry)
    [drift] = replay.finish().drifts
    assert drift.kind == record_pb2.DRIFT_KIND_PROGRAM_UNKNOWN
    assert "upgrade or roll back" in drift.message


MANGLED: dict[str, Callable[[list[Entry]], list[Entry]]] = {
    "a fact left out": lambda entries: [*entries[:9], *entries[10:]],
    "a fact twice": lambda entries: [*entries[:9], entries[8], *entries[9:]],
    "two facts changed about": lambda entries: [*entries[:8], entries[9], entries[8], *entries[10:]],
    "the end cut off": lambda entries: entries[:-1],
}


@pytest.mark.parametrize("name", MANGLED)
def test_a_record_that_does_not_follow_from_its_program_is_caught(name: str) -> None:
    replay = Rerun("debate")
    for entry in MANGLED[name](list(entries_of(FOLDER / "debate.comitia"))):
        replay.take_fact(entry)
    report = replay.finish()
    assert not report.same
    assert report.drift_count >= 1
