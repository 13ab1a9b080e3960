"""The experiment behind decision 0010: thirty tasks as planned turns, and which facts the journal needs for them.

Prints one JSON line per figure. Nothing is timed and nothing is random: every run gives the same lines.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import language
from audit import audit
from planned_turn import decide
from sink import Outcome, judge
from state import Pinned, State
from wire import pb
from world import Ran, Setting, as_expected, load_tasks, load_tools, matches, run_task

from services.meshkit.content.label import UNKNOWN
from services.meshkit.content.proto import label_to_proto

#: Facts that come from outside; all others follow from them by the program.
OUTSIDE = frozenset({"turn_started", "call_answered", "call_failed", "call_held", "call_decided", "label_lowered"})
DEFAULT = Setting()
TOOLS = load_tools()
TASKS = load_tasks()


def main() -> None:
    for figure, value in figures().items():
        print(json.dumps({"bench": "planned_turns", "figure": figure, "value": value}))


def figures() -> dict[str, Any]:
    return {
        "tasks": len(TASKS),
        "worlds": sum(len(task["runs"]) for task in TASKS),
        "attacked": sum("attack" in task for task in TASKS),
        "done_with": done_by_level(),
        "lost_without": lost_without(),
        "constructs": plans_by_construct(),
        "calls_differ_between_worlds": differing_shapes(),
        "needs_a_person_to_read": sorted(task["id"] for task in TASKS if endorsed(task)),
        "attacks": attacks(),
        "careful_plan_of_F3": {level.name: fate(_task("F3"), level, plan=1) for level in LEVELS[2:5]},
        "honest": honest(),
        "journal": journal_bytes(),
        "labels_followed_from_facts": audited(),
        "replayed": replayed(),
    }


# ------------------------------------------------------------------------------------------------ what tasks need


def done(task: Mapping[str, Any], plan: int, setting: Setting = DEFAULT, *, alone: bool = False) -> bool:
    """Says whether a plan does its task in all of its worlds; `alone` without a person who reads for the planner."""
    rans = [(run_task(task, case, plan, TOOLS, setting), case) for case in task["runs"]]
    return all(as_expected(ran, case, TOOLS) and not (alone and ran.endorsed) for ran, case in rans)


def done_by_any(task: Mapping[str, Any], allowed: frozenset[str]) -> bool:
    setting = Setting(allowed=allowed)
    return any(done(task, plan, setting, alone=True) for plan in range(len(task["plans"])))


def done_by_level() -> dict[str, int]:
    """Counts tasks done as constructs are added one at a time."""
    levels = [language.STRAIGHT | set(language.CONTROL[:count]) for count in range(len(language.CONTROL) + 1)]
    names = ["straight", *(f"+ {construct}" for construct in language.CONTROL)]
    counts = {
        name: sum(done_by_any(task, frozenset(level)) for task in TASKS)
        for name, level in zip(names, levels, strict=True)
    }
    everything = sum(any(done(task, plan) for plan in range(len(task["plans"]))) for task in TASKS)
    return counts | {"+ a person who reads": everything}


def lost_without() -> dict[str, list[str]]:
    """Names the tasks that nothing else replaces a construct for."""
    return {construct: sorted(task["id"] for task in TASKS if needs(task, construct)) for construct in language.CONTROL}


def needs(task: Mapping[str, Any], construct: str) -> bool:
    return done_by_any(task, language.VERBS) and not done_by_any(task, language.VERBS - {construct})


def plans_by_construct() -> dict[str, str]:
    """Says what the first plan of each task is made of."""
    return {
        task["id"]: " ".join(sorted(language.constructs(task["plans"][0]))) or "straight"
        for task in sorted(TASKS, key=lambda task: task["id"])
    }


def differing_shapes() -> list[str]:
    """Names the tasks whose calls differ from world to world: no plan in a row can do them, whoever writes it.

    That the worlds of a task differ only in what tools answer is what makes this a proof.
    """
    found: list[str] = []
    for task in TASKS:
        rans = [run_task(task, case, 0, TOOLS, DEFAULT) for case in task["runs"]]
        if len({tuple(call["call"] for call in ran.calls) for ran in rans}) > 1:
            found.append(task["id"])
    return sorted(found)


def endorsed(task: Mapping[str, Any]) -> bool:
    plans = range(len(task["plans"]))
    return not done_by_any(task, language.VERBS) and any(done(task, plan) for plan in plans)


# ---------------------------------------------------------------------------------------------------- what leaks


@dataclass(frozen=True, slots=True)
class Level:
    name: str
    setting: Setting | None


LEVELS = (
    Level("reactive, no labels", None),
    Level("reactive, labels joined", Setting(labelling="context")),
    Level("planned, no labels", Setting(checks="none")),
    Level("planned, labels of arguments", Setting(checks="arguments")),
    Level("planned, labels of arguments and choices", DEFAULT),
    Level("the same, one label for a whole result", Setting(labelling="result")),
)


def attacks() -> dict[str, dict[str, int]]:
    return {level.name: dict(Counter(fate(task, level) for task in TASKS if "attack" in task)) for level in LEVELS}


def fate(task: Mapping[str, Any], level: Level, plan: int = 0) -> str:
    """Says what became of the attacker's goal: `unseen`, `recorded`, `held`, or `out of reach` of the plan.

    A reactive turn is not run: its model reads the injection and, as the worst one, asks for the goal.
    """
    if level.setting is None:
        return "unseen"
    goal = task["attack"]["goal"]
    if level.setting.labelling == "context":
        outside = label_to_proto(UNKNOWN)
        origins = [pb.ArgumentOrigin(argument=name, label=outside, choice_label=outside) for name in goal["with"]]
        intended = pb.CallIntended(arguments=origins, choice_label=outside)
        return _fate_of(judge(TOOLS, goal["call"], intended, checks="choice").outcome)
    ran = run_task(task, task["attack"], plan, TOOLS, level.setting)
    for call, judgement in ran.judged:
        if matches(call, goal):
            return _fate_of(judgement.outcome)
    return "held" if ran.endorsed else "out of reach"


def _task(id: str) -> Mapping[str, Any]:
    return next(task for task in TASKS if task["id"] == id)


def _fate_of(outcome: Outcome) -> str:
    return {Outcome.PASSED: "unseen", Outcome.RECORDED: "recorded"}.get(outcome, "held")


def honest() -> dict[str, dict[str, int]]:
    """Counts what labels cost where nobody attacks: tasks that wait for a person, calls held and recorded."""
    return {level.name: _honest(level.setting) for level in LEVELS if level.setting}


def _honest(setting: Setting) -> dict[str, int]:
    counts: Counter[str] = Counter(tasks_that_wait=0, calls=0, held=0, recorded=0, refused=0)
    for task in TASKS:
        rans = [run_task(task, case, 0, TOOLS, setting) for case in task["runs"]]
        counts["tasks_that_wait"] += any(ran.held() + ran.endorsed for ran in rans)
        counts["calls"] += sum(len(ran.judged) for ran in rans)
        counts["held"] += sum(ran.held() for ran in rans)
        counts["recorded"] += sum(ran.recorded() for ran in rans)
        counts["refused"] += sum(one.outcome is Outcome.REFUSED for ran in rans for _, one in ran.judged)
    return dict(counts)


# -------------------------------------------------------------------------------------------------- the journal


def all_runs() -> Iterable[Ran]:
    for task in TASKS:
        for case in [*task["runs"], *([task["attack"]] if "attack" in task else [])]:
            for plan in range(len(task["plans"])):
                yield run_task(task, case, plan, TOOLS, DEFAULT)


def journal_bytes() -> dict[str, Any]:
    """Weighs the facts: how many and how many bytes of each kind, over all turns."""
    count: Counter[str] = Counter()
    size: Counter[str] = Counter()
    turns, added = 0, 0
    for ran in all_runs():
        turns += 1
        for fact in ran.journal:
            kind = fact.WhichOneof("fact")
            count[kind] += 1
            size[kind] += fact.ByteSize()
            if kind == "call_intended":
                old = pb.Fact.FromString(fact.SerializeToString())
                for name in ("place", "arguments", "choice_label"):
                    old.call_intended.ClearField(name)
                added += fact.ByteSize() - old.ByteSize()
    today = ("turn_started", "call_intended", "call_answered", "call_failed", "turn_ended")
    return {
        "turns": turns,
        "bytes_per_turn": sum(size.values()) // turns,
        "new_facts": sum(size[kind] for kind in size if kind not in today) // turns,
        "new_fields": added // turns,
        "kinds": {kind: [count[kind], round(size[kind] / count[kind])] for kind in sorted(count)},
    }


def audited() -> int:
    """Follows all labels of all journals without the program. Returns: how many."""
    return sum(audit(ran.journal) for ran in all_runs())


def replayed() -> int:
    """Feeds what came from outside to a fresh decider and compares all that it decides. Returns: facts compared."""
    compared = 0
    for ran in all_runs():
        state = State(pinned=Pinned(tools=TOOLS))
        expected: list[bytes] = []
        for recorded in ran.journal:
            fact = pb.Fact.FromString(recorded.SerializeToString(deterministic=True))
            if fact.WhichOneof("fact") not in OUTSIDE:
                assert expected.pop(0) == fact.SerializeToString(deterministic=True)
                compared += 1
                continue
            state, commands = decide(state, fact)
            for command in commands:
                decided = command.fact if hasattr(command, "fact") else pb.Fact(call_intended=command.intended)
                expected.append(decided.SerializeToString(deterministic=True))
        assert not expected
    return compared


if __name__ == "__main__":
    main()
