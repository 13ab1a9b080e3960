"""What shows of a run before it begins, and what is read of it when it has ended."""

from datetime import UTC, datetime, timedelta

import pytest

from comitia.common.v1 import usage_pb2
from comitia.orchestrator.v1 import agent_pb2, journal_pb2, run_pb2, session_pb2, workflow_pb2
from services.orchestrator.domain.run_shape import RunShape
from services.orchestrator.record.run_shapes import shape_of
from services.orchestrator.record.seen_runs import seen_run
from tests.support.sessions import a_start, an_agent
from tests.support.workflows import a_node, a_run, a_workflow, cel, edge, literal

ADA = agent_pb2.Agent(name="Ada", version="1.0.0", instructions="x" * 100, max_output_tokens=256)


def speaks(prompt: workflow_pb2.NodeValue) -> workflow_pb2.AgentNode:
    return workflow_pb2.AgentNode(agent="Ada@1.0.0", prompt=prompt)


def shape(*nodes: workflow_pb2.Node, **given: object) -> RunShape:
    return shape_of(a_run(a_workflow(*nodes), given=given, agents=[ADA]), {})


def test_prompts_and_data_that_the_input_decides_are_counted_to_the_byte() -> None:
    short = shape(a_node("a", agent=speaks(cel("input.text"))), text="word")
    long = shape(a_node("a", agent=speaks(cel("input.text"))), text="ä" * 1_000)
    assert long.turns()[0].given_bytes - short.turns()[0].given_bytes == 2_000 - 4
    assert short.turns()[0].given_bytes > 100
    with_data = shape(a_node("a", agent=speaks(literal("Go.")), input={"data": cel("input.text")}), text="y" * 500)
    assert (
        with_data.turns()[0].given_bytes - shape(a_node("a", agent=speaks(literal("Go.")))).turns()[0].given_bytes
        == 500
    )


def test_nodes_come_after_those_they_wait_for_whatever_their_order_in_the_file() -> None:
    found = shape(
        a_node("last", "first", agent=speaks(cel("nodes.first.output"))), a_node("first", agent=speaks(literal("Go.")))
    )
    assert [part.place for part in found.parts] == ["nodes/first", "nodes/last"]
    assert found.parts[1].after == (0,)
    assert found.parts[1].turn is not None
    assert found.parts[1].turn.reads == (0,)


def test_a_list_of_the_input_is_counted_and_any_other_is_left_open() -> None:
    def mapped(items: workflow_pb2.NodeValue) -> workflow_pb2.Node:
        body = workflow_pb2.Node(agent=speaks(cel("item")))
        return a_node("each", "ask", map=workflow_pb2.MapNode(items=items, body=body, max_parallel=4))

    ask = a_node("ask", agent=speaks(literal("Ask.")))
    known = shape(ask, mapped(cel("input.pages")), pages=["a" * 50] * 7).parts[1]
    assert (known.items, known.items_known, known.parallel) == (7, True, 4)
    assert known.turn is not None
    assert known.turn.given_bytes >= 150
    empty = shape(ask, mapped(cel("input.pages")), pages=[]).parts[1]
    assert (empty.items, empty.items_known) == (0, True)
    unknown = shape(ask, mapped(cel("[nodes.ask.output]")), pages=[]).parts[1]
    assert not unknown.items_known


def test_conditions_that_the_input_decides_are_decided() -> None:
    def branch(amount: int) -> RunShape:
        node = a_node("dear", when="input.amount > 1000", agent=speaks(literal("Look twice.")))
        return shape(node, amount=amount)

    assert [(part.items, part.conditional) for part in branch(5).parts] == [(0.0, False)]
    assert [(part.items, part.conditional) for part in branch(5_000).parts] == [(1.0, False)]
    judged = shape(
        a_node("judge", agent=speaks(literal("Judge."))),
        a_node("pay", edge("judge", "nodes.judge.output == 'yes'")),
    )
    assert [part.conditional for part in judged.parts] == [False, True]
    assert judged.parts[1].work == "step:work"


def test_runs_that_a_run_starts_are_looked_into_and_never_without_end() -> None:
    below = {"flow@1.0.0": a_run(a_workflow(a_node("a", agent=speaks(literal("Go.")))), agents=[ADA])}
    above = a_workflow(a_node("it", run=workflow_pb2.RunNode(workflow="flow@1.0.0")))
    started = a_run(above)
    started.model_override = "small"
    [turn] = shape_of(started, below).turns()
    assert (turn.agent, turn.model) == ("Ada", "small")
    assert shape_of(started, {}).turns() == []
    circle = {"flow@1.0.0": a_run(above)}
    assert shape_of(started, circle).turns() == []


def test_a_session_is_the_turns_of_its_agents() -> None:
    found = shape_of(a_start(max_rounds=3), {})
    assert found.name == "session:debate/round_robin"
    assert [(part.place, part.items, part.items_known) for part in found.parts] == [
        ("speaks/Athena", 3.0, True),
        ("speaks/Apollo", 3.0, True),
    ]
    assert [part.after for part in found.parts] == [(), (0,)]
    together = shape_of(a_start(strategy=session_pb2.SESSION_STRATEGY_PARALLEL), {})
    assert [part.after for part in together.parts] == [(), ()]
    # The first turn of all is shown nothing, the last one what was said before.
    assert all(turn.heard == pytest.approx((0 + 1 + 2 + 3 + 4 + 5) / 6) for turn in found.turns())
    converging = session_pb2.ConvergencePolicy(enabled=True)
    open_end = shape_of(a_start(max_rounds=10, convergence=converging), {})
    assert [(part.items, part.items_known) for part in open_end.parts] == [(7.0, False)] * 2
    assert shape_of(a_start(an_agent("Zeus")), {}).parts[0].place == "speaks/Zeus"


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def step(path: str, begin: float, end: float, *, tokens: int = 0, **fields: object) -> run_pb2.RunStep:
    made = run_pb2.RunStep(
        path=path,
        state=run_pb2.STEP_STATE_SUCCEEDED,
        kind=run_pb2.STEP_KIND_AGENT,
        usage=usage_pb2.Usage(input_tokens=10, cache_read_tokens=5, output_tokens=tokens, reasoning_tokens=1),
    )
    made.MergeFrom(run_pb2.RunStep(**fields))  # type: ignore[arg-type]
    made.start_time.FromDatetime(NOON + timedelta(seconds=begin))
    made.end_time.FromDatetime(NOON + timedelta(seconds=end))
    return made


def test_what_a_run_took_is_read_from_its_steps() -> None:
    body = workflow_pb2.Node(agent=speaks(cel("item")))
    shaped = shape(
        a_node("each", map=workflow_pb2.MapNode(items=cel("input.pages"), body=body)),
        a_node("wait", "each", wait=workflow_pb2.WaitNode(signal="go")),
        a_node("last", "wait", agent=speaks(literal("Go."))),
        pages=["a", "b"],
    )
    run = run_pb2.Run(
        cost_nano_usd=77,
        usage=usage_pb2.Usage(input_tokens=30, cache_read_tokens=12, output_tokens=9, reasoning_tokens=3),
    )
    seen = seen_run(
        run,
        [
            step("nodes/each", 0, 4, kind=run_pb2.STEP_KIND_MAP),
            step("nodes/each/0", 0, 3, tokens=5),
            step("nodes/each/1", 1, 4, tokens=3),
            step("nodes/wait", 4, 1_000, kind=run_pb2.STEP_KIND_WAIT),
            step("nodes/last", 1_000, 1_002, state=run_pb2.STEP_STATE_SKIPPED),
        ],
        shaped,
    )
    # Items beside one another count once, the wait not at all.
    assert seen.totals == (42.0, 12.0, 77.0, 4.0 + 2.0)
    assert seen.made == {0: 2, 1: 1, 2: 0}
    assert [(turn.part, turn.input_tokens, turn.output_tokens, turn.seconds) for turn in seen.turns] == [
        (0, 15, 6, 3.0),
        (0, 15, 4, 3.0),
    ]


def test_turns_of_a_session_are_found_by_who_spoke() -> None:
    shaped = shape_of(a_start(max_rounds=1), {})
    steps = [step("rounds/1/Athena", 0, 1, agent="Athena@1.0.0"), step("rounds/1/Apollo", 1, 2, agent="Apollo@1.0.0")]
    seen = seen_run(run_pb2.Run(), steps, shaped)
    assert seen.made == {0: 1, 1: 1}
    assert seen.totals[3] == 2.0


def test_a_definition_of_another_release_is_refused() -> None:
    broken = journal_pb2.RunStarted(workflow=workflow_pb2.Workflow(name="x", version="1.0.0"))
    broken.workflow.nodes.add(id="a", when=workflow_pb2.Condition(cel="((("))
    with pytest.raises(ValueError, match="cannot be read"):
        shape_of(broken, {})


def test_a_workflow_that_many_nodes_start_is_read_once() -> None:
    def starting(below: str) -> workflow_pb2.Workflow:
        return a_workflow(*(a_node(f"n{number}", run=workflow_pb2.RunNode(workflow=below)) for number in range(300)))

    lowest = a_run(a_workflow(a_node("a", agent=speaks(literal("Go.")))), agents=[ADA])
    middle, upper = a_run(starting("lowest@1.0.0")), a_run(starting("middle@1.0.0"))
    top = shape_of(
        a_run(starting("upper@1.0.0")), {"lowest@1.0.0": lowest, "middle@1.0.0": middle, "upper@1.0.0": upper}
    )
    assert len({id(part.run) for part in top.parts}) == 1
    # One by one these would be 27 million runs.
    assert len(top.runs()) == 4
    assert len(top.turns()) == 1
