"""Which nodes of a tenant's tree a call spends from."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from services.cost.domain.budget import BudgetScope
from services.cost.domain.node import MOST_LEVELS, nodes_beside
from services.cost.usecases.spend import Reserve, digest_of
from services.meshkit.content import CallContext, CallId, Usage
from services.meshkit.core.money import NanoUsd
from tests.support.money import ANNA, a_purpose

PARTS = st.lists(st.sampled_from(("nodes", "rounds", "1", "Athena", "again")), max_size=MOST_LEVELS + 3)


def steps_of(context: CallContext) -> list[str]:
    return [key.name for key in nodes_beside(context) if key.scope is BudgetScope.STEP]


def test_a_call_spends_from_the_steps_it_lies_in_and_from_those_that_its_run_lies_below() -> None:
    context = CallContext(
        call_id=CallId(run_id="run_c", path="rounds/1"), parent_steps=("run_a/nodes/inner", "run_b/nodes/list/3")
    )
    assert steps_of(context) == [
        "run_c/rounds",
        "run_c/rounds/1",
        "run_a/nodes",
        "run_a/nodes/inner",
        "run_b/nodes",
        "run_b/nodes/list",
        "run_b/nodes/list/3",
    ]


def test_a_call_that_lies_in_no_step_spends_from_those_above_its_run() -> None:
    context = CallContext(call_id=CallId(run_id="run_c"), parent_steps=("run_a/nodes",))
    assert steps_of(context) == ["run_a/nodes"]


@given(own=PARTS, above=st.lists(PARTS.filter(len), max_size=4))
def test_it_spends_from_each_level_of_each_of_these_steps_and_from_nothing_else(
    own: list[str], above: list[list[str]]
) -> None:
    places = [("run_0", own), *((f"run_{number}", parts) for number, parts in enumerate(above, start=1))]
    context = CallContext(
        call_id=CallId(run_id="run_0", path="/".join(own)),
        parent_steps=tuple("/".join((run_id, *parts)) for run_id, parts in places[1:]),
    )
    levels = {"/".join((run_id, *parts[:end])) for run_id, parts in places for end in range(1, min(len(parts), 16) + 1)}
    assert set(steps_of(context)) == levels


def test_a_repeat_is_the_same_request_whether_or_not_its_caller_knows_the_steps_above_its_run() -> None:
    plain = Reserve(
        tenant=ANNA,
        request_id=UUID(int=1),
        purpose=a_purpose(),
        budgets=(),
        bound=Usage(input=1),
        tool_cost=NanoUsd(0),
        ttl=timedelta(minutes=1),
    )
    context = replace(plain.purpose.context, parent_steps=("run_a/nodes/inner",))
    below = replace(plain, purpose=replace(plain.purpose, context=context))
    assert digest_of(below) == digest_of(plain)
    assert digest_of(replace(plain, bound=Usage(input=2))) != digest_of(plain)
