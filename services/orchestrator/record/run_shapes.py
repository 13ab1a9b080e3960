"""Reads what a run will ask for from its first fact, the same whether it is about to begin or has ended long ago.

What shows before a run begins is worked out: prompts and lists that its input alone decides, conditions too. What only
the run shows is left open, and learnt.
"""

import json
from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Final, cast

from comitia.orchestrator.v1 import agent_pb2, journal_pb2, session_pb2
from services.orchestrator.conditions.budget import Allowance
from services.orchestrator.conditions.errors import ExpressionFailed
from services.orchestrator.domain.agent import split_reference
from services.orchestrator.domain.run_shape import PartShape, RunShape, TurnShape
from services.orchestrator.programs.graph_plan import Expression, Facts, NodePlan, Plan, Source
from services.orchestrator.programs.run import PLANS
from services.orchestrator.programs.values import Json, NotJson, as_text, from_struct

#: First facts of the workflows that a run may start, by `name@version`.
Below = Mapping[str, journal_pb2.RunStarted]

#: Bytes that the prompt files write around what a turn is shown.
_SYSTEM_BYTES: Final = 40
_TASK_BYTES: Final = 90
_SESSION_BYTES: Final = 320
#: Items of a list that nobody has seen, and those of a known one whose bytes are counted.
_UNSEEN_ITEMS: Final = 5.0
_COUNTED_ITEMS: Final = 3
#: Share of its rounds that a session which may converge takes.
_CONVERGES: Final = 0.7
_DEFAULT_RECENT: Final = 6
_DEFAULT_MODEL: Final = "default"
_DEFAULT_OUTPUT: Final = 512
_DEFAULT_CALLS: Final = 4
_MOST_DEPTH: Final = 8


def shape_of(started: journal_pb2.RunStarted, below: Below) -> RunShape:
    """Reads the shape of a run. Raises: ValueError: its workflow is none that this release can read."""
    if started.HasField("session"):
        return _SessionShape(started).read()
    return _Workflows(below, started.model_override).shape(started, 0)


class _Workflows:
    """Reads the workflows of a run. Of one that several nodes start there is one shape: two thousand nodes, each of a
    workflow of two thousand that start a third, would be billions of parts otherwise.
    """

    def __init__(self, below: Below, model: str) -> None:
        self._below = below
        self._model = model
        #: By reference and depth. Bounded by what is in `below`, and _MOST_DEPTH.
        self._read: dict[tuple[str, int], RunShape] = {}

    def shape(self, started: journal_pb2.RunStarted, depth: int) -> RunShape:
        """Reads the shape of a run."""
        workflow = started.workflow
        return RunShape(
            name=f"workflow:{workflow.name}",
            reference=f"{workflow.name}@{workflow.version}",
            parts=_WorkflowShape(started, PLANS.of(workflow), self, depth).parts(),
        )

    def started_by(self, reference: str, depth: int) -> RunShape | None:
        """Reads the shape of a run that one at this depth starts; None where it is not known, or too deep."""
        started = self._below.get(reference)
        if started is None or depth >= _MOST_DEPTH:
            return None
        if (reference, depth) not in self._read:
            below = journal_pb2.RunStarted()
            below.CopyFrom(started)
            below.model_override = self._model
            self._read[reference, depth] = self.shape(below, depth + 1)
        return self._read[reference, depth]


class _WorkflowShape:
    def __init__(self, started: journal_pb2.RunStarted, plan: Plan, workflows: _Workflows, depth: int) -> None:
        self._started = started
        self._plan = plan
        self._workflows = workflows
        self._depth = depth
        self._agents = {f"{agent.name}@{agent.version}": agent for agent in started.agents}
        self._facts: Facts = {"input": from_struct(started.run.input)}
        self._allowance = Allowance()

    def parts(self) -> list[PartShape]:
        order = self._order()
        places = {node: place for place, node in enumerate(order)}
        return [self._part(self._plan.nodes[node], places) for node in order]

    def _order(self) -> list[int]:
        """Orders nodes so that each comes after those that it waits for."""
        waiting = [len(node.edges) for node in self._plan.nodes]
        ready = list(self._plan.first)
        heapify(ready)
        order: list[int] = []
        while ready:
            node = heappop(ready)
            order.append(node)
            for dependent in self._plan.nodes[node].dependents:
                waiting[dependent] -= 1
                if waiting[dependent] == 0:
                    heappush(ready, dependent)
        return order

    def _part(self, node: NodePlan, places: Mapping[int, int]) -> PartShape:
        wanted = self._wanted(node.when)
        items, items_known = 1.0, True
        facts: list[Facts] = [self._facts]
        done = node
        if node.body is not None:
            done = node.body
            listed = self._value(node.main, self._facts)
            items_known = isinstance(listed, list)
            items = min(_UNSEEN_ITEMS, float(node.max_items))
            if isinstance(listed, list):
                # What programs evaluate is JSON.
                found = cast(list[Json], listed)
                items = float(len(found))
                facts = [{**self._facts, "item": item, "index": at} for at, item in enumerate(found[:_COUNTED_ITEMS])]
        reads = tuple(places[read] for read in {*node.reads, *done.reads})
        return PartShape(
            place=node.path,
            after=tuple(places[edge.before] for edge in node.edges),
            conditional=wanted is None
            or any(edge.when is not None for edge in node.edges)
            or node.needed < len(node.edges),
            items=items if wanted is not False else 0.0,
            items_known=items_known,
            parallel=node.max_parallel or 1,
            turn=self._turn(done, sorted(reads), facts or [self._facts]) if done.kind == "agent" else None,
            work=self._work(done),
            run=self._run(done),
        )

    def _turn(self, node: NodePlan, reads: Sequence[int], facts: Sequence[Facts]) -> TurnShape | None:
        agent = self._agents.get(node.node.agent.agent)
        if agent is None:
            return None
        shown = sum(self._bytes(node, one) for one in facts) // len(facts)
        if node.node.policy.HasField("output_schema"):
            shown += len(json.dumps(from_struct(node.node.policy.output_schema)))
        return _turn_of(agent, self._started.model_override, _TASK_BYTES + shown, reads=tuple(reads))

    def _bytes(self, node: NodePlan, facts: Facts) -> int:
        """Counts the bytes of a turn's prompt and data, as far as they are known."""
        values = [node.main, *(source for _, source in node.input)]
        known = [self._value(value, facts) for value in values]
        return sum(len(as_text(value).encode()) for value in known if value is not None)

    def _value(self, source: Source | None, facts: Facts) -> Json | None:
        """Gives a value that what is known decides; None for any other."""
        if source is None or source.expression is None:
            return None if source is None else source.literal
        if source.expression.nodes or not source.expression.names <= facts.keys():
            return None
        try:
            return source.expression.value(facts, self._allowance)
        except (ExpressionFailed, NotJson):
            return None  # the run will say so

    def _wanted(self, when: Expression | None) -> bool | None:
        """Says whether a node's own condition holds; None when only the run shows."""
        if when is None:
            return True
        if when.nodes or not when.names <= self._facts.keys():
            return None
        try:
            return when.holds(self._facts, self._allowance)
        except (ExpressionFailed, NotJson):
            return None

    def _work(self, node: NodePlan) -> str:
        match node.kind:
            case "tool":
                return f"tool:{node.node.tool.tool.partition('@')[0]}"
            case "step":
                return f"step:{node.node.step.name}"
            case _:
                return ""

    def _run(self, node: NodePlan) -> RunShape | None:
        return self._workflows.started_by(node.node.run.workflow, self._depth) if node.kind == "run" else None


class _SessionShape:
    def __init__(self, started: journal_pb2.RunStarted) -> None:
        self._started = started
        self._session = started.session
        self._agents = {f"{agent.name}@{agent.version}": agent for agent in started.agents}
        strategy = self._session.strategy
        self._together = strategy == session_pb2.SESSION_STRATEGY_PARALLEL
        self._picked = strategy in (session_pb2.SESSION_STRATEGY_MODERATED, session_pb2.SESSION_STRATEGY_STEP)

    def read(self) -> RunShape:
        """Reads the turns of each agent, and of whoever says who speaks."""
        session = self._session
        mode = session_pb2.SessionMode.Name(session.mode).removeprefix("SESSION_MODE_").lower()
        strategy = session_pb2.SessionStrategy.Name(session.strategy).removeprefix("SESSION_STRATEGY_").lower()
        rounds, known = float(session.max_rounds), not (session.convergence.enabled or self._picked)
        if session.convergence.enabled:
            rounds = max(rounds * _CONVERGES, min(rounds, 2.0))
        parts: list[PartShape] = []
        for name in session.agents:
            turn = self._turn(name, rounds)
            parts.append(self._part(parts, f"speaks/{_short(name)}", turn=turn, items=rounds, known=known))
        if session.moderator:
            turn, turns = self._turn(session.moderator, rounds), rounds * len(session.agents)
            parts.append(
                self._part(parts, f"moderates/{_short(session.moderator)}", turn=turn, items=turns, known=known)
            )
        if session.HasField("strategy_step"):
            work = f"step:{session.strategy_step.name}"
            parts.append(self._part(parts, "picks", work=work, items=rounds, known=known))
        return RunShape(name=f"session:{mode}/{strategy}", reference=mode, parts=parts)

    def _part(
        self,
        before: Sequence[PartShape],
        place: str,
        *,
        items: float,
        known: bool,
        turn: TurnShape | None = None,
        work: str = "",
    ) -> PartShape:
        # Turns of different agents alternate: one after the other they take as long as in any order.
        after = () if self._together or not before else (len(before) - 1,)
        return PartShape(place=place, after=after, items=items, items_known=known, turn=turn, work=work)

    def _turn(self, name: str, rounds: float) -> TurnShape | None:
        agent = self._agents.get(name)
        if agent is None:
            return None
        spoken = max(1, round(rounds * len(self._session.agents)))
        recent = min(agent.memory.recent_turns or _DEFAULT_RECENT, 50)
        step = len(self._session.agents) if self._together else 1
        heard = sum(min(recent, turn - turn % step) for turn in range(spoken)) / spoken
        shown = _SESSION_BYTES + len(self._session.topic_start.encode())
        return _turn_of(agent, self._started.model_override, shown, heard=heard)


def _turn_of(
    agent: agent_pb2.Agent, model: str, shown: int, *, reads: tuple[int, ...] = (), heard: float = 0.0
) -> TurnShape:
    return TurnShape(
        agent=agent.name,
        model=model or agent.model or _DEFAULT_MODEL,
        given_bytes=_SYSTEM_BYTES + len(agent.instructions.encode()) + shown,
        reads=reads,
        heard=heard,
        max_output=agent.max_output_tokens or _DEFAULT_OUTPUT,
        tools=len(agent.tools),
        max_tool_calls=(agent.max_tool_calls or _DEFAULT_CALLS) if agent.tools else 0,
    )


def _short(reference: str) -> str:
    return split_reference(reference, field="agents")[0]
