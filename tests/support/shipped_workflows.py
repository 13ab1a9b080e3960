"""The workflows of docs/workflows.md as estimates see them: five versions of each, and inputs of any length."""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from comitia.orchestrator.v1 import agent_pb2, journal_pb2, workflow_pb2
from services.orchestrator.domain.run_shape import RunShape
from services.orchestrator.domain.workflow import AgentNode, Cel, Dependency, Literal, Node
from services.orchestrator.record.run_shapes import shape_of
from services.orchestrator.transport.convert import workflow_to_proto
from tests.support.definitions import stored

_PAGE = Path(__file__).parents[2] / "docs" / "workflows.md"
#: By workflow, the node whose output those read that a version has more.
_READ = {"greet": "hello", "claim": "judge", "summaries": "whole", "move": "cost_est", "invoices": "sum"}
#: Models of agents that the page names.
_MODELS = {"Athena": "large", "Apollo": "small", "Hermes": "small", "invoice_summary": "large"}
VERSIONS = 5
LONGEST_ANSWER = 2_048


@cache
def names() -> tuple[str, ...]:
    """Gives the names of the workflows that the page shows."""
    return tuple(sorted(_shown()))


@cache
def _shown() -> dict[str, str]:
    blocks = re.findall(r"^```(?:yaml|json)\n(.*?)^```", _PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return {stored(text).workflow.name: text for text in blocks}


@cache
def workflow(name: str, version: int) -> workflow_pb2.Workflow:
    """Gives a version: so many more agents speak one after the other at its end."""
    made = stored(_shown()[name])
    nodes, before = list(made.workflow.nodes), _READ[name]
    for number in range(version):
        agent = AgentNode(agent="Hermes@1.0.0" if number % 2 else "Apollo@1.0.0", prompt=Literal("Say it once more."))
        more = Node(
            id=f"more{number}",
            kind=agent,
            input={"said": Cel(f"nodes.{before}.output")},
            depends_on=(Dependency(node=before),),
        )
        nodes.append(more)
        before = more.id
    changed = replace(made.workflow, version=f"1.{version}.0", nodes=tuple(nodes))
    return workflow_to_proto(replace(made, workflow=changed, digest=f"{made.digest}-{version}", node_count=len(nodes)))


def shape(name: str, version: int, given: dict[str, Any]) -> RunShape:
    """Reads the shape of a run as the orchestrator does."""
    started = journal_pb2.RunStarted(workflow=workflow(name, version))
    started.run.input.update(given)
    for agent, model in _MODELS.items():
        started.agents.add().CopyFrom(_agent(agent, model, "3.0.0" if agent == "invoice_summary" else "1.0.0"))
    return shape_of(started, {})


def an_input(name: str, size: int, random: Random) -> dict[str, Any]:
    """Gives an input with so many bytes of text."""
    text = "word " * (size // 5 + 1)
    match name:
        case "greet":
            return {"guest": text}
        case "claim":
            return {"text": text, "amount": random.randint(10, 5_000)}
        case "summaries":
            pages = random.randint(2, 12)
            return {"pages": [text[: size // pages + 1]] * pages}
        case _:
            return {"file": text}


def _agent(name: str, model: str, version: str) -> agent_pb2.Agent:
    return agent_pb2.Agent(
        name=name, version=version, model=model, instructions="Be brief.", max_output_tokens=LONGEST_ANSWER
    )
