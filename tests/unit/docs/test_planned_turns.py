"""Decision 0010: its thirty tasks, its figures, and what its decider must never do."""

import importlib
import json
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "decisions" / "0010-planned-turns.md"
FOLDER = PAGE.with_suffix("")
FATES = ("unseen", "recorded", "held", "out of reach")


@pytest.fixture(scope="module")
def experiment() -> Iterator[Any]:
    """Imports the experiment, whose modules find each other by the folder that they lie in."""
    own = {file.stem for file in FOLDER.glob("*.py")}
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module("experiment")
    sys.path.remove(str(FOLDER))
    for name in own:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def figures(experiment: Any) -> Any:
    return experiment.figures()


def test_the_page_states_what_the_tasks_need(figures: Any) -> None:
    page = PAGE.read_text()
    for language, count in figures["done_with"].items():
        assert f"| {language.replace('straight', 'calls in a row')} | {count} |\n" in page
    for construct, tasks in figures["lost_without"].items():
        assert f"| {construct} | {' '.join(tasks)} |\n" in page
    assert len(figures["calls_differ_between_worlds"]) == 15
    assert figures["needs_a_person_to_read"] == ["O6", "R6"]


def test_sixteen_tasks_hang_on_data_and_fifteen_of_them_by_proof(figures: Any) -> None:
    proven = set(figures["calls_differ_between_worlds"])
    control = {task for task, used in figures["constructs"].items() if {"if", "map", "repeat"} & set(used.split())}
    # R4 maps over a list that the plan wrote itself, and has a second plan that is written out.
    assert control - {"R4"} - proven == {"O3"}
    assert len(control - {"R4"}) == 16


def test_the_page_states_what_became_of_every_attack(figures: Any) -> None:
    page = PAGE.read_text().replace("**", "")
    for level, fates in figures["attacks"].items():
        assert f"| {level} | {' | '.join(str(fates.get(fate, 0)) for fate in FATES)} |\n" in page
    assert set(figures["careful_plan_of_F3"].values()) == {"out of reach"}


def test_the_page_states_what_labels_cost_honest_work(figures: Any) -> None:
    page = PAGE.read_text().replace("**", "")
    for level, counts in figures["honest"].items():
        cells = [str(counts[name]) for name in ("tasks_that_wait", "calls", "held", "refused", "recorded")]
        assert f"| {level} | {' | '.join(cells)} |\n" in page


def test_the_page_states_what_the_facts_weigh_and_that_they_replay(figures: Any) -> None:
    page = PAGE.read_text()
    journal = figures["journal"]
    assert f"{figures['replayed']} decided facts of {journal['turns']} turns replay bit for bit" in page
    assert f"follows {figures['labels_followed_from_facts']} labels" in page
    assert f"weighs {journal['bytes_per_turn']:,} bytes" in page
    assert f"{journal['new_facts']} of them new facts and {journal['new_fields']} new fields" in page


def test_no_planner_ever_reads_what_an_attacker_wrote(experiment: Any) -> None:
    for task in experiment.TASKS:
        if "attack" in task:
            for plan in range(len(task["plans"])):
                ran = experiment.run_task(task, task["attack"], plan, experiment.TOOLS, experiment.DEFAULT)
                for request in _planner_requests(experiment, ran):
                    assert "ASSISTANT" not in request
                    assert "evil" not in request
                    assert "EVIL" not in request


def _planner_requests(experiment: Any, ran: Any) -> list[str]:
    intended = [fact.call_intended for fact in ran.journal if fact.WhichOneof("fact") == "call_intended"]
    return [call.request.decode() for call in intended if call.kind == experiment.pb.CALL_KIND_PLAN]


def test_a_reference_in_a_result_is_never_filled_in(experiment: Any) -> None:
    ran = _run(
        experiment,
        [
            {"as": "secret", "call": "files.read", "with": {"path": "secret.md"}},
            {"as": "mail", "call": "mail.search", "with": {"query": "x"}},
            {"call": "tickets.note", "with": {"ticket": "T-1", "text": "It says: ${mail.text}"}},
        ],
        {"files.read": {"text": "hunter2"}, "mail.search": {"text": "$secret.text ${secret.text}"}},
    )
    assert ran.calls[-1]["with"]["text"] == "It says: $secret.text ${secret.text}"


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        ([], "PLAN_EMPTY"),
        ([{"run": "rm"}], "PLAN_STEP_UNKNOWN"),
        ([{"call": "shell.run"}], "PLAN_TOOL_UNKNOWN"),
        ([{"answer": "$nobody.knows"}], "PLAN_NAME_UNKNOWN"),
        ([{"as": "a", "call": "sql.schema"}, {"as": "a", "call": "sql.schema"}], "PLAN_NAME_TWICE"),
        ([{"map": [1], "item": "x", "at_most": 1001, "do": []}], "PLAN_BOUND_WRONG"),
        ([{"answer": "x"}] * 201, "PLAN_TOO_LONG"),
        (["answer"], "PLAN_STEP_MALFORMED"),
        ([{"map": "$x", "item": "x"}], "PLAN_STEP_MALFORMED"),
        ([{"call": "sql.query", "with": 3, "may_fail": True, "as": []}], "PLAN_STEP_MALFORMED"),
    ],
)
def test_a_plan_that_is_none_is_refused_before_its_first_step(experiment: Any, plan: Any, reason: str) -> None:
    ran = _run(experiment, plan, {})
    assert (ran.reason, ran.calls) == (reason, [])
    assert any(fact.WhichOneof("fact") == "plan_refused" for fact in ran.journal)


def test_a_list_over_its_bound_ends_the_turn_before_its_first_item(experiment: Any) -> None:
    plan = [
        {"as": "sick", "call": "k8s.pods", "with": {"namespace": "staging"}},
        {
            "map": "$sick.items",
            "item": "pod",
            "at_most": 2,
            "do": [{"call": "k8s.restart", "with": {"pod": "$pod.name"}}],
        },
    ]
    ran = _run(experiment, plan, {"k8s.pods": {"items": [{"name": "a"}] * 3}})
    assert ran.reason == "MAP_TOO_LONG"
    assert [call["call"] for call in ran.calls] == ["k8s.pods"]


def test_what_a_condition_on_a_mail_guards_carries_the_label_of_the_mail(experiment: Any) -> None:
    plan = [
        {"as": "mail", "call": "mail.search", "with": {"query": "x"}},
        {
            "if": {"value": "$mail.text", "is": "equal", "than": "yes"},
            "then": [{"call": "payments.refund", "with": {"order": "1", "amount": 1}}],
        },
        {"call": "tickets.note", "with": {"ticket": "T-1", "text": "done"}},
    ]
    ran = _run(experiment, plan, {"mail.search": {"text": "yes"}})
    calls = [fact.call_intended for fact in ran.journal if fact.WhichOneof("fact") == "call_intended"]
    sources = {json.loads(call.request)["call"]: list(call.choice_label.sources) for call in calls[1:]}
    assert "tool:mail.search" in sources["payments.refund"]
    assert "tool:mail.search" not in sources["tickets.note"]


def test_a_plan_asked_for_under_a_condition_carries_the_label_of_the_condition(experiment: Any) -> None:
    plan = [
        {"as": "mail", "call": "mail.search", "with": {"query": "x"}},
        {
            "if": {"value": "$mail.text", "is": "equal", "than": "yes"},
            "then": [{"replan": {}, "reason": "They said yes."}],
        },
    ]
    following = [{"call": "payments.refund", "with": {"order": "1", "amount": 1}}]
    ran = _run(experiment, plan, {"mail.search": {"text": "yes"}}, replans=[following])
    plans = [fact.plan_recorded for fact in ran.journal if fact.WhichOneof("fact") == "plan_recorded"]
    assert "tool:mail.search" in plans[1].label.sources
    assert ran.held() == 1


def test_what_a_round_adds_to_the_journal_does_not_grow(experiment: Any) -> None:
    plan = [
        {
            "as": "search",
            "repeat": 30,
            "carry": {"cursor": ["newest", "$build.older"]},
            "do": [{"as": "build", "call": "ci.builds", "with": {"at": "$cursor"}}],
            "until": {"value": "$build.passed", "is": "equal", "than": True},
        }
    ]
    ran = _run(experiment, plan, {"ci.builds": {"passed": False, "older": "newest"}})
    ends = [at for at, fact in enumerate(ran.journal) if fact.WhichOneof("fact") == "loop_turned"]
    rounds = [sum(fact.ByteSize() for fact in ran.journal[a:b]) for a, b in pairwise(ends)]
    # The first digits of a place and of a call's number are all that may come on top.
    assert len(rounds) == 29
    assert max(rounds[2:]) - min(rounds[2:]) <= 12


def test_an_auditor_without_the_program_finds_a_label_that_was_lowered(experiment: Any) -> None:
    auditor = importlib.import_module("audit")
    task = next(task for task in experiment.TASKS if task["id"] == "S3")
    ran = experiment.run_task(task, task["runs"][0], 0, experiment.TOOLS, experiment.DEFAULT)
    refund = next(fact for fact in reversed(ran.journal) if fact.WhichOneof("fact") == "call_intended")
    refund.call_intended.choice_label.integrity = 1
    with pytest.raises(auditor.LabelDiffers):
        auditor.audit(ran.journal)


def _run(experiment: Any, plan: Any, tools: dict[str, Any], replans: list[Any] | None = None) -> Any:
    case = {"tools": tools, "effects": []}
    task = {"request": "x", "plans": [plan], "replans": replans or [], "runs": [case]}
    done = {"tickets.note": {}, "payments.refund": {}}
    return experiment.run_task(task, {**case, "tools": tools | done}, 0, experiment.TOOLS, experiment.DEFAULT)
