"""What is asked of the engines: random sessions and random workflows."""

from dataclasses import dataclass
from random import Random
from typing import Any

from comitia.orchestrator.v1 import journal_pb2, session_pb2, workflow_pb2
from tests.support.sessions import a_start, an_agent
from tests.support.workflows import a_node, a_run, a_workflow, cel, edge, literal

_AGENTS = ("Athena", "Apollo", "Ares")
_NODES = (
    "step",
    "step",
    "step",
    "slow",
    "beating",
    "tool",
    "map",
    "aggregate",
    "wait",
    "nap",
    "agent",
    "checked",
    "run",
)
_STRATEGIES = (session_pb2.SESSION_STRATEGY_ROUND_ROBIN, session_pb2.SESSION_STRATEGY_PARALLEL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A run that somebody wants."""

    started: journal_pb2.RunStarted
    #: When it is asked for, virtual seconds.
    at: float
    #: Seconds until its deadline; 0 for none.
    life: float

    def of(self, run_id: str, now: Any) -> journal_pb2.RunStarted:
        """Gives the first fact of the run under an id."""
        started = journal_pb2.RunStarted()
        started.CopyFrom(self.started)
        if started.HasField("run"):
            started.run.run_id = run_id
            if self.life:
                started.run.deadline_time.FromDatetime(now)
                started.run.deadline_time.seconds += round(self.life)
        else:
            started.session.session_id = run_id
        return started


def wishes(dice: Random, count: int, *, within: float) -> list[Wish]:
    """Draws runs, in the order in which they are asked for."""
    made: list[Wish] = []
    for at in sorted(1.0 + within * dice.random() for _ in range(count)):
        life = float(dice.randrange(8, 60)) if dice.random() < 0.2 else 0.0
        started = _session(dice) if dice.random() < 0.35 else a_run(_workflow(dice), agents=[an_agent("Athena")])
        made.append(Wish(started=started, at=at, life=life))
    return made


def a_sub_run(intended: journal_pb2.JournalEntry, parent: str) -> journal_pb2.RunStarted:
    """Builds the first fact of a sub-run that a call asks for."""
    started = a_run(a_workflow(a_node("n0"), a_node("n1", "n0")))
    started.run.run_id = journal_pb2.SubRunTask.FromString(intended.call_intended.request).run_id
    started.run.parent_run_id = parent
    return started


def _session(dice: Random) -> journal_pb2.RunStarted:
    return a_start(
        *(an_agent(name) for name in _AGENTS[: dice.randint(1, 2)]),
        strategy=dice.choice(_STRATEGIES),
        max_rounds=dice.randint(1, 3),
        manual_advance=dice.random() < 0.3,
    )


def _workflow(dice: Random) -> workflow_pb2.Workflow:
    """Draws a workflow whose nodes come after random others."""
    nodes = list[workflow_pb2.Node]()
    for place in range(dice.randint(1, 8)):
        before = dice.sample(range(place), min(place, dice.choice((0, 1, 1, 2))))
        edges = [edge(f"n{one}") for one in before]
        if edges and dice.random() < 0.2:
            edges[0].when.cel = f'nodes.n{before[0]}.state == "failed"'
        node = a_node(f"n{place}", *edges, **_kind(dice.choice(_NODES)))
        if edges:
            node.fan_in.mode = dice.choice((1, 2, 3))  # type: ignore[assignment]
            node.fan_in.quorum = dice.randint(1, len(edges))
        node.policy.on_failure = dice.choice((0, 1, 2, 2, 2))  # type: ignore[assignment]
        if node.WhichOneof("kind") not in ("wait", "aggregate"):
            node.policy.retries.max_attempts = dice.randint(1, 4)
            node.policy.retries.first_backoff.FromMilliseconds(dice.choice((50, 400, 3_000, 9_000)))
        nodes.append(node)
    return a_workflow(*nodes)


def _kind(name: str) -> dict[str, Any]:
    body = workflow_pb2.Node(step=workflow_pb2.StepNode(name="work"), input={"item": cel("item")})
    slow, beating, nap = workflow_pb2.NodePolicy(), workflow_pb2.NodePolicy(), workflow_pb2.WaitNode()
    nap.timer.FromSeconds(7)
    slow.timeout.FromSeconds(4)
    beating.heartbeat.FromSeconds(2)
    fields: dict[str, dict[str, Any]] = {
        "step": {},
        "slow": {"policy": slow},
        "beating": {"policy": beating},
        "tool": {"tool": workflow_pb2.ToolNode(tool="calculator@1.0.0")},
        "map": {"map": workflow_pb2.MapNode(items=literal([1, 2, 3]), body=body, max_parallel=2)},
        "aggregate": {"aggregate": workflow_pb2.AggregateNode(reducer=workflow_pb2.REDUCER_COLLECT)},
        "wait": {"wait": workflow_pb2.WaitNode(signal="go")},
        "nap": {"wait": nap},
        "agent": {"agent": workflow_pb2.AgentNode(agent="Athena@1.0.0", prompt=literal("Speak."))},
        "checked": {"policy": workflow_pb2.NodePolicy(output_schema={"type": "object"})},  # type: ignore[arg-type]
        "run": {"run": workflow_pb2.RunNode(workflow="child@1.0.0")},
    }
    return fields[name]
