"""The tree that `comitia run watch` draws: what stands on it after each event."""

import io

import pytest
from rich.console import Console

from comitia.orchestrator.v1 import run_pb2, run_service_pb2, session_service_pb2
from comitia_sdk.cli import run_tree
from comitia_sdk.cli.run_tree import RunTree, step_state
from comitia_sdk.cli.runs import not_taken

RUNNING, SUCCEEDED = run_pb2.STEP_STATE_RUNNING, run_pb2.STEP_STATE_SUCCEEDED


def drawn(tree: RunTree) -> str:
    console = Console(file=io.StringIO(), width=200, force_terminal=False, color_system=None)
    console.print(tree.drawing())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def a_step(path: str, state: run_pb2.StepState.ValueType, **more: object) -> run_service_pb2.WatchRunResponse:
    event = run_service_pb2.WatchRunResponse(sequence=1)
    event.step.CopyFrom(run_pb2.RunStep(path=path, state=state, **more))  # type: ignore[arg-type]
    return event


@pytest.fixture
def tree() -> RunTree:
    tree = RunTree()
    event = run_service_pb2.WatchRunResponse(sequence=1)
    event.run.CopyFrom(run_pb2.Run(run_id="run_1", workflow="walk@1.0.0", state=run_pb2.RUN_STATE_RUNNING))
    tree.take(event)
    return tree


def test_nothing_is_known_before_the_first_event() -> None:
    assert drawn(RunTree()).strip() == "…"


def test_steps_stand_in_the_order_in_which_they_began(tree: RunTree) -> None:
    tree.take(a_step("nodes/read", RUNNING, agent="Ada@1.0.0"))
    tree.take(a_step("nodes/judge", RUNNING))
    tree.take(a_step("nodes/read", SUCCEEDED, agent="Ada@1.0.0", cost_nano_usd=5_000_000, attempts=2))
    lines = drawn(tree).splitlines()
    assert lines[0] == "run_1 · walk@1.0.0 · running · 1 of 2 steps done · $0.005"
    assert "+ read succeeded  Ada@1.0.0 · attempt 2 · $0.005" in lines[1]
    assert "> judge running" in lines[2]


def test_text_is_shown_while_it_is_written_and_goes_with_the_turn(tree: RunTree) -> None:
    tree.take(a_step("nodes/read", RUNNING))
    for text, restart in (("Old", False), ("Rivers ", True), ("meet\x1b[31m\n", False)):
        delta = session_service_pb2.TextDelta(path="nodes/read", text=text, restart=restart)
        tree.take(run_service_pb2.WatchRunResponse(text_delta=delta))
    said = drawn(tree)
    assert "Rivers meet" in said
    assert "\x1b" not in said
    assert "Old" not in said
    tree.take(a_step("nodes/read", SUCCEEDED))
    assert "Rivers" not in drawn(tree)


def test_of_many_items_those_that_need_a_look_are_shown(tree: RunTree) -> None:
    tree.take(a_step("nodes/each", RUNNING, item_count=1000))
    for index in range(900):
        tree.take(a_step(f"nodes/each/{index}", SUCCEEDED))
    tree.take(a_step("nodes/each/900", run_pb2.STEP_STATE_FAILED, state_reason="TOOL_FAILED", state_message="It broke"))
    lines = drawn(tree).splitlines()
    assert "x 900 failed  It broke" in lines[2]
    assert "of 901 begun: 900 succeeded, 1 failed" in lines[-1]
    assert len(lines) < 20


def test_of_many_nodes_the_latest_are_shown(tree: RunTree) -> None:
    for index in range(200):
        tree.take(a_step(f"nodes/n{index}", SUCCEEDED))
    said = drawn(tree)
    assert "160 earlier" in said
    assert "n199" in said


def test_what_is_drawn_of_a_large_map_is_looked_at_alone(tree: RunTree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.take(a_step("nodes/each", RUNNING, item_count=10_000))
    for index in range(2_000):
        tree.take(a_step(f"nodes/each/{index}", RUNNING))
        tree.take(a_step(f"nodes/each/{index}", SUCCEEDED))
    looks = list[str]()

    def counted(step: run_pb2.RunStep) -> str:
        looks.append(step.path)
        return step_state(step)

    monkeypatch.setattr(run_tree, "step_state", counted)
    assert "of 2000 begun: 2000 succeeded" in drawn(tree)
    assert len(looks) < 20


@pytest.mark.parametrize(("state", "said"), [("RUNNING", True), ("PAUSED", False), ("SUCCEEDED", False)])
def test_who_pauses_a_run_hears_when_nobody_has_taken_it_yet(state: str, said: bool) -> None:
    run = run_pb2.Run(run_id="run_1", state=run_pb2.RunState.Value(f"RUN_STATE_{state}"))
    assert ("comitia run show run_1" in not_taken(run, "paused")) == said


def test_who_pauses_a_run_that_failed_by_the_mesh_hears_why_it_is_shown_as_parked() -> None:
    run = run_pb2.Run(run_id="run_1", state=run_pb2.RUN_STATE_PARKED, state_reason="ENGINE_FAULT")
    assert "comitia run resume run_1" in not_taken(run, "paused")
    assert "comitia run show run_1" in not_taken(run, "cancelling")
