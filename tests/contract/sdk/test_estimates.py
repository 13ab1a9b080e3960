"""Estimates by the SDK and the command line, against a fake mesh."""

import json

import pytest

from comitia.orchestrator.v1 import session_pb2
from comitia_sdk.aio import AsyncClient
from comitia_sdk.cli.estimates import estimate_lines, rounded
from comitia_sdk.errors import InvalidRequest, NotFound
from comitia_sdk.sync import Client
from tests.contract.sdk.conftest import Comitia
from tests.support.fake_mesh import FakeMesh
from tests.support.fake_mesh_estimates import a_range, an_estimate

INSIDE, OUTSIDE, INTERVAL = "●", "○", "─"


async def test_a_client_asks_what_a_run_or_a_session_would_take(client: AsyncClient, mesh: FakeMesh) -> None:
    found = await client.estimates.workflow("review", {"pages": [1, 2]}, max_cost_nano_usd=7, model="m", project="p")
    assert found.cost_nano_usd.median == 20_000_000
    asked = mesh.estimates.asked[-1]
    assert (asked.workflow, asked.max_cost_nano_usd, asked.model, asked.project) == ("review", 7, "m", "p")
    assert list(asked.input["pages"]) == [1, 2]
    await client.estimates.session("Rivers?", agents=["Ada"], strategy="step:pick", pool="desk", max_rounds=2)
    asked = mesh.estimates.asked[-1]
    assert (asked.mode, asked.strategy) == (session_pb2.SESSION_MODE_DEBATE, session_pb2.SESSION_STRATEGY_STEP)
    assert (asked.strategy_step.name, asked.strategy_step.pool, asked.max_rounds) == ("pick", "desk", 2)
    with pytest.raises(NotFound):
        await client.estimates.workflow("missing")
    with pytest.raises(InvalidRequest):
        await client.estimates.workflow("review", {"bad": object()})
    with pytest.raises(InvalidRequest, match="did you mean debate"):
        await client.estimates.session("Rivers?", agents=["Ada"], mode="debates")


def test_a_blocking_client_lists_estimates(blocking: Client, mesh: FakeMesh) -> None:
    mesh.estimates.ended(20_000_000)
    assert [run.cost_nano_usd for run in blocking.estimates.list(workflow="review")] == [20_000_000]
    assert blocking.estimates.coverage() == (1, 1)


@pytest.mark.parametrize(
    ("value", "said"), [(0, 0), (7, 7), (999, 999), (1_234, 1_230), (123_456_789, 123_000_000), (-1_236, -1_240)]
)
def test_an_estimate_says_no_more_digits_than_it_can_promise(value: int, said: int) -> None:
    assert rounded(value) == said


def test_an_estimate_is_said_with_its_interval_and_its_budgets(comitia: Comitia, mesh: FakeMesh) -> None:
    said = comitia("estimate", "review", "--set", "text=A draft", "--max-cost", "0.50", lines=None).out
    assert mesh.estimates.asked[-1].input["text"] == "A draft"
    assert mesh.estimates.asked[-1].max_cost_nano_usd == 500_000_000
    for words in (
        "1,000 tokens (900 to 1,200)",
        "$0.02 ($0.01 to $0.04)",
        "1 min 01 s (30.0 s to 1 h 01 min), without waits",
        "40 runs of its kind",
        "90% of 50 intervals held the cost; 90 % is promised",
        "may not fit, $0.03 left",
    ):
        assert words in said


def test_an_estimate_of_few_runs_gives_no_share_of_them() -> None:
    said = dict(estimate_lines(an_estimate(calibrated_on=1, judged_count=1, covered_count=0)))
    assert said["rests on"] == "1 run of its kind"
    assert said["coverage"] == "0 of 1 interval held the cost, too few to judge by"
    said = dict(estimate_lines(an_estimate(calibrated_on=2, judged_count=9, covered_count=8)))
    assert (said["rests on"], said["coverage"]) == (
        "2 runs of its kind",
        "8 of 9 intervals held the cost, too few to judge by",
    )


def test_an_estimate_that_rests_on_nothing_says_so(comitia: Comitia) -> None:
    said = comitia("estimate", "--session", "Rivers?", "-a", "Ada", lines=None).out
    assert "static tables alone; the interval promises nothing yet" in said
    assert "without gpt-odd: no price is known" in said
    assert "intervals held" not in said


def test_an_estimate_as_json_is_the_message(comitia: Comitia) -> None:
    found = json.loads(comitia("estimate", "review", "-o", "json", lines=None).out)
    assert found["cost_nano_usd"] == {"low": "10000000", "median": "20000000", "high": "40000000"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name one: a WORKFLOW, or --session TOPIC"),
        (("review", "--session", "Rivers?"), "name one: a WORKFLOW, or --session TOPIC"),
        (("--session", "Rivers?", "--history"), "leave --session out"),
        (("review", "--set", "text"), "must be NAME=VALUE"),
    ],
)
def test_what_names_nothing_or_two_things_is_refused(comitia: Comitia, arguments: tuple[str, ...], words: str) -> None:
    assert words in comitia("estimate", *arguments, code=2).err


def test_the_history_is_drawn_on_one_scale(comitia: Comitia, mesh: FakeMesh) -> None:
    empty = comitia("estimate", "review", "--history", lines=None).out
    assert "no runs have ended" in empty
    mesh.estimates.ended(20_000_000)
    mesh.estimates.ended(90_000_000)
    mesh.estimates.ended(0, cost_nano_usd=a_range(0, 0, 0))
    drawn = comitia("estimate", "review", "--history", lines=None).out.splitlines()
    first, second, free = drawn[1:4]
    assert INSIDE in first
    assert OUTSIDE in second
    assert "$0.09" in second
    assert first.index(INTERVAL) == second.index(INTERVAL)
    assert not {INTERVAL, INSIDE, OUTSIDE} & set(free)
    assert drawn[-1] == "1 of 3 intervals held the cost, too few to judge by"
    assert any("from $0.01 to $0.09" in line for line in drawn)
    assert len(json.loads(comitia("estimate", "--history", "-o", "json", lines=None).out)) == 3


def test_a_session_shows_what_it_took_beside_what_was_expected(comitia: Comitia) -> None:
    started = json.loads(comitia("session", "start", "Tabs?", "--preflight", "warn", "-o", "json").out)
    said = comitia("session", "show", started["session_id"], lines=None).out
    for words in (
        "estimated   may not fit\n",
        "$0.02 ($0.01 to $0.04); took $0.000006, below the interval\n",
        "1,000 tokens in (900 to 1,200); took ",
        "500 tokens out (400 to 700); took ",
    ):
        assert words in said
    shown = json.loads(comitia("session", "show", started["session_id"], "-o", "json").out)
    assert shown["estimate"]["cost_nano_usd"]["median"] == "20000000"


def test_a_session_that_was_not_estimated_shows_what_would_have_been_expected(comitia: Comitia, mesh: FakeMesh) -> None:
    session = json.loads(comitia("session", "start", "Tabs?", "-o", "json").out)["session_id"]
    assert "estimated" not in comitia("session", "show", session, lines=None).out
    mesh.estimates.ended(20_000_000, cost_nano_usd=a_range(5_000, 6_000, 7_000))
    assert "estimated" not in comitia("session", "show", session, lines=None).out
    mesh.estimates.runs[0].run_id = session
    said = comitia("session", "show", session, lines=None).out
    assert "estimated   made after its end, as if before its start\n" in said
    assert "$0.000006 ($0.000005 to $0.000007); took $0.000006, inside\n" in said


def test_what_has_not_ended_shows_what_it_took_so_far(comitia: Comitia, mesh: FakeMesh) -> None:
    mesh.sessions.hold = True
    session = json.loads(comitia("session", "start", "Tabs?", "--preflight", "warn", "-o", "json").out)["session_id"]
    assert "($0.01 to $0.04); $0.00 so far\n" in comitia("session", "show", session, lines=None).out
    comitia("session", "cancel", session, lines=None)
    assert "($0.01 to $0.04); $0.00 until it stopped\n" in comitia("session", "show", session, lines=None).out


def test_a_start_names_what_is_done_with_a_run_that_may_not_fit(comitia: Comitia) -> None:
    said = comitia("session", "start", "Tabs?", "--preflight", "rejects", code=2).err
    assert "did you mean reject" in said
    started = json.loads(comitia("session", "start", "Tabs?", "--preflight", "warn", "-o", "json").out)
    assert started["session_id"]
