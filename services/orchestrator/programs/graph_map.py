"""Maps: the same body for each item of a list, some at a time, their results in the order of the items."""

from typing import cast

from comitia.orchestrator.v1 import workflow_pb2
from services.orchestrator.conditions.errors import ExpressionFailed
from services.orchestrator.programs.commands import CompleteStep, ExpandMap, StartStep
from services.orchestrator.programs.graph_ends import EXPRESSION_FAILED, failed, gave_own
from services.orchestrator.programs.graph_plan import Facts
from services.orchestrator.programs.graph_state import GivenList, GraphState, MapState, Phase, Step, joined
from services.orchestrator.programs.graph_steps import GRAPH, begin
from services.orchestrator.programs.values import Json

MAP_NOT_A_LIST = "MAP_NOT_A_LIST"
MAP_TOO_LONG = "MAP_TOO_LONG"


def expand(state: GraphState, step: Step, facts: Facts) -> None:
    """Begins a map: finds its items, or refuses them before any begins."""
    plan = step.plan
    state.steps[step.path] = step
    state.out.append(StartStep(path=step.path, program=GRAPH))
    try:
        items = None if plan.main is None else plan.main.value(facts, state.allowance)
    except ExpressionFailed as error:
        failed(state, step, EXPRESSION_FAILED, str(error))
        return
    if not isinstance(items, list):
        failed(state, step, MAP_NOT_A_LIST, "the items are no list; give one")
        return
    count = len(cast("list[Json]", items))
    if count > plan.max_items:
        message = f"the list has {count} items and max_items is {plan.max_items}; raise it, or give fewer"
        failed(state, step, MAP_TOO_LONG, message)
        return
    step.phase = Phase.ITEMS
    state.out.append(ExpandMap(path=step.path, count=count))
    state.maps[plan.place] = MapState(step, facts, cast("list[Json]", items), [None] * count)
    state.filling.append(plan.place)


def fill(state: GraphState, place: int) -> None:
    """Begins items while there is room and time, and ends a map whose items have all ended."""
    mapped = state.maps.get(place)
    if mapped is None:
        return
    map_step, plan = mapped.step, mapped.step.plan
    body = plan.body
    if body is None:
        raise ValueError("a map has a body")
    while mapped.next < len(mapped.items) and len(mapped.open) < plan.max_parallel:
        if state.spent:
            state.filling.append(place)
            return
        index = mapped.next
        mapped.next += 1
        item = mapped.open[index] = Step(body, f"{plan.path}/{index}", index, map_step.label)
        facts = None if body.request is not None else {**mapped.facts, "item": mapped.items[index], "index": index}
        begin(state, item, facts)
        if state.maps.get(place) is not mapped:
            return  # the item ended the map, or the run
    if mapped.ended == len(mapped.items):
        del state.maps[place]
        omit = plan.on_item_failure == workflow_pb2.ITEM_FAILURE_OMIT
        given = GivenList(mapped.given, joined(map_step.label, mapped.failures), omit=omit)
        gave_own(state, map_step, given, CompleteStep(path=map_step.path))
