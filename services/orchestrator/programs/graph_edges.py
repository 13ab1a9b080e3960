"""Edges: which nodes may start, and which are passed over, once a node has ended."""

from heapq import heappush

from services.orchestrator.conditions.errors import ExpressionFailed
from services.orchestrator.programs.graph_ends import failed_before, keep_control, skipped
from services.orchestrator.programs.graph_plan import Edge, NodePlan
from services.orchestrator.programs.graph_state import PENDING, SUCCEEDED, GraphState

CONDITION_FAILED = "CONDITION_FAILED"
CONDITION_FALSE = "CONDITION_FALSE"
NOT_SUCCEEDED = "DEPENDENCY_NOT_SUCCEEDED"


def decide_edges(state: GraphState, place: int) -> None:
    """Decides the edges from a node that has ended. Those of one node together take no longer than they are many."""
    nodes, states, undecided = state.plan.nodes, state.states, state.undecided
    succeeded = states[place] is SUCCEEDED
    for after in nodes[place].dependents:
        if states[after] is not PENDING:
            continue
        undecided[after] -= 1
        plan = nodes[after]
        if not plan.plain:
            _judge(state, plan, plan.edge_after[place], succeeded=succeeded)
            if state.ended:
                return
        elif not succeeded:
            skipped(state, plan, NOT_SUCCEEDED)
        elif undecided[after] == 0:
            heappush(state.ready, after)


def may_start(state: GraphState, plan: NodePlan) -> bool:
    """Asks a node's own condition; a node that may not start has ended by then."""
    if plan.when is None:
        return True
    try:
        holds = plan.when.holds(state.facts(plan.when_reads), state.allowance)
    except ExpressionFailed as error:
        failed_before(state, plan, CONDITION_FAILED, str(error))
        return False
    if not holds:
        skipped(state, plan, CONDITION_FALSE)
    return holds


def _judge(state: GraphState, plan: NodePlan, edge: Edge, *, succeeded: bool) -> None:
    place = plan.place
    if state.held[place] >= plan.needed:
        return  # about to start: it sees later nodes as they stood
    try:
        if plan.patient:
            if edge.when is None and not succeeded:
                skipped(state, plan, NOT_SUCCEEDED)
            elif state.undecided[place] == 0:
                _judge_all(state, plan)
            return
        holds = succeeded if edge.when is None else edge.when.holds(state.facts(edge.reads), state.allowance)
    except ExpressionFailed as error:
        keep_control(state, plan)
        failed_before(state, plan, CONDITION_FAILED, str(error))
        return
    if holds:
        state.held[place] += 1
        if state.held[place] == plan.needed:
            heappush(state.ready, place)
    elif state.held[place] + state.undecided[place] < plan.needed:
        skipped(state, plan, NOT_SUCCEEDED if edge.when is None else CONDITION_FALSE)


def _judge_all(state: GraphState, plan: NodePlan) -> None:
    """Decides all edges with conditions at once, so that it does not matter which node ended first."""
    facts = state.facts(plan.judges)
    if all(edge.when is None or edge.when.holds(facts, state.allowance) for edge in plan.edges):
        heappush(state.ready, plan.place)
    else:
        skipped(state, plan, CONDITION_FALSE)
