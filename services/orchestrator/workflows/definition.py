"""Reads a definition, in whatever form it came, and pins what it refers to."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, cast

from services.meshkit.documents.source import Bounds, Path, Source, Unreadable, read_source
from services.orchestrator.domain.workflow import (
    MAX_DEPTH,
    AgentNode,
    MapNode,
    Node,
    RunNode,
    Schema,
    StoredWorkflow,
    Workflow,
)
from services.orchestrator.workflows.agentflow import import_flow
from services.orchestrator.workflows.agentnet import import_task_graph
from services.orchestrator.workflows.check import bodies, check
from services.orchestrator.workflows.document import Document, canonical_bytes, digest_of
from services.orchestrator.workflows.faults import Faults, Reason
from services.orchestrator.workflows.fields import said
from services.orchestrator.workflows.imported import Imported
from services.orchestrator.workflows.parse import parse

#: Largest text.
BOUNDS: Final = Bounds(size_bytes=1024 * 1024, depth=32, values=100_000, noun="workflow")
_TASK_GRAPH: Final = frozenset({"prompt", "deps", "dependencies", "task_id", "assigned_agent"})
_FIRST_VERSION: Final = "1.0.0"


class Format(Enum):
    """What a text is written in."""

    COMITIA = "comitia"
    AGENTNET = "agentnet"
    AGENTFLOW = "agentflow"


_IMPORTERS: Final[Mapping[Format, Callable[[object, Faults], Imported]]] = {
    Format.AGENTNET: import_task_graph,
    Format.AGENTFLOW: import_flow,
}


@dataclass(frozen=True, slots=True)
class Reference:
    """A name in a definition that is pinned to a version."""

    name: str
    #: Empty for the highest.
    version: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownWorkflow:
    """What is known of a workflow that a definition runs."""

    version: str
    depth: int
    input_schema: Schema | None


@dataclass(frozen=True, slots=True)
class Draft:
    """A definition as it was read, with everything that is wrong with it so far."""

    workflow: Workflow | None
    faults: Faults

    @property
    def agents(self) -> list[Reference]:
        """The agents that it names."""
        return [] if self.workflow is None else [_reference(text, path) for text, path in _agents(self.workflow)]

    @property
    def workflows(self) -> list[Reference]:
        """The workflows that it runs."""
        return [] if self.workflow is None else [_reference(text, path) for text, path in _runs(self.workflow)]

    def pinned(
        self, agents: Mapping[tuple[str, str], str], workflows: Mapping[tuple[str, str], KnownWorkflow]
    ) -> StoredWorkflow | None:
        """Gives it with every reference pinned, or notes what is missing and gives None.

        Args:
            agents: versions by name and version, which is empty for the highest; so `workflows`.
        """
        for one in self.agents:
            if (one.name, one.version) not in agents:
                sentence = f"names the agent {_said(one)}, which does not exist; create it first"
                self.faults.add(one.path, Reason.AGENT_NOT_FOUND, sentence)
        depth = 1
        for one in self.workflows:
            known = workflows.get((one.name, one.version))
            if known is None:
                self.faults.add(one.path, Reason.WORKFLOW_NOT_FOUND, self._missing(one))
                continue
            depth = max(depth, known.depth + 1)
            if known.depth >= MAX_DEPTH:
                sentence = f"runs {_said(one)}, whose runs start runs {known.depth} deep; at most {MAX_DEPTH} are taken"
                self.faults.add(one.path, Reason.TOO_DEEP, sentence)
        if self.workflow is None:
            return None
        self._check_inputs(workflows)
        if self.faults:
            return None
        pinned = _pinned(self.workflow, agents, {key: known.version for key, known in workflows.items()})
        digest = digest_of(canonical_bytes(pinned))
        return StoredWorkflow(workflow=pinned, digest=digest, depth=depth, node_count=len(pinned.nodes))

    def _missing(self, one: Reference) -> str:
        assert self.workflow is not None
        itself = one.name == self.workflow.name and one.version in ("", self.workflow.version)
        hint = "a workflow cannot run itself" if itself else "create it first"
        return f"names the workflow {_said(one)}, which does not exist; {hint}"

    def _check_inputs(self, workflows: Mapping[tuple[str, str], KnownWorkflow]) -> None:
        assert self.workflow is not None
        for node, path in bodies(self.workflow):
            if not isinstance(node.kind, RunNode):
                continue
            known = workflows.get(_split(node.kind.workflow))
            schema = None if known is None else known.input_schema
            if schema is not None:
                for sentence in _mismatches(node, schema):
                    self.faults.add((*path, "input"), Reason.INPUT_MISMATCH, sentence)


def read_text(text: str, written_in: Format | None, *, name: str = "", version: str = "") -> Draft:
    """Reads a text.

    Args:
        written_in: None where its fields tell.
        name, version: for a text that has none; one that has another is refused.
    """
    try:
        source = read_source(text, BOUNDS)
    except Unreadable as error:
        faults = Faults(None)
        for fault in error.faults:
            # Each at its own place, whatever else has the same path.
            here = Faults(Source(None, {fault.path: fault.place}))
            here.add(fault.path, Reason.DUPLICATE_KEY if fault.twice else Reason.UNREADABLE, fault.sentence)
            faults.take(here)
        return Draft(None, faults)
    faults = Faults(source)
    value = source.value
    importer = _IMPORTERS.get(written_in or _format_of(value))
    if importer is not None and isinstance(value, Mapping):
        imported = importer(cast(object, value), faults)
        faults.origins = imported.origins
        value = imported.document
        if "version" not in imported.document:
            version = version or _FIRST_VERSION
    return _checked(_named(value, name, version, faults), faults)


def read_document(document: Document) -> Draft:
    """Reads a definition that came as a message."""
    faults = Faults(None)
    return _checked(document, faults)


def _checked(value: object, faults: Faults) -> Draft:
    parsed = parse(value, faults)
    if parsed is None:
        return Draft(None, faults)
    check(parsed, faults)
    return Draft(parsed.workflow, faults)


def _format_of(value: object) -> Format:
    fields = cast(Mapping[str, object], value) if isinstance(value, Mapping) else dict[str, object]()
    nodes: object = fields.get("nodes", fields.get("tasks"))
    names: set[str] = set()
    # The first nodes tell.
    for node in cast(list[object], nodes)[:20] if isinstance(nodes, list) else []:
        if isinstance(node, Mapping):
            names |= cast(Mapping[str, object], node).keys()
    if "edges" in fields or {"type", "config"} & names:
        return Format.AGENTFLOW
    return Format.AGENTNET if names & _TASK_GRAPH else Format.COMITIA


def _named(value: object, name: str, version: str, faults: Faults) -> object:
    """Gives a document the name and version that its request says."""
    if not isinstance(value, Mapping):
        return value
    document = dict(cast(Mapping[str, object], value))
    for field, given in (("name", name), ("version", version)):
        own = document.get(field)
        if given and own is not None and own != given:
            sentence = f"is {said(own)} in the text and {said(given)} in the request; say it once"
            faults.add((field,), Reason.NOT_ALLOWED_HERE, sentence)
        elif given:
            document[field] = given
    return document


def _agents(workflow: Workflow) -> Iterator[tuple[str, Path]]:
    for node, path in bodies(workflow):
        if isinstance(node.kind, AgentNode) and node.kind.agent:
            yield node.kind.agent, (*path, "agent", "agent")
        if node.policy is not None and node.policy.fallback_agent:
            yield node.policy.fallback_agent, (*path, "policy", "fallback_agent")


def _runs(workflow: Workflow) -> Iterator[tuple[str, Path]]:
    for node, path in bodies(workflow):
        if isinstance(node.kind, RunNode) and node.kind.workflow:
            yield node.kind.workflow, (*path, "run", "workflow")


def _split(reference: str) -> tuple[str, str]:
    name, _, version = reference.partition("@")
    return name, version


def _reference(text: str, path: Path) -> Reference:
    return Reference(*_split(text), path)


def _said(reference: Reference) -> str:
    return f"`{reference.name}@{reference.version}`" if reference.version else f"`{reference.name}`"


def _mismatches(node: Node, schema: Schema) -> Iterator[str]:
    required = schema.get("required")
    for name in cast(list[object], required) if isinstance(required, list) else []:
        if name not in node.input:
            yield f"lacks `{name}`, which that workflow requires"
    known = schema.get("properties")
    if schema.get("additionalProperties") is False:
        for name in node.input:
            if not isinstance(known, Mapping) or name not in known:
                yield f"gives `{name}`, which that workflow does not take"


def _pinned(
    workflow: Workflow, agents: Mapping[tuple[str, str], str], workflows: Mapping[tuple[str, str], str]
) -> Workflow:
    def agent(text: str) -> str:
        return f"{_split(text)[0]}@{agents[_split(text)]}"

    def node_pinned(node: Node) -> Node:
        kind, policy = node.kind, node.policy
        match kind:
            case AgentNode():
                kind = replace(kind, agent=agent(kind.agent))
            case RunNode():
                kind = replace(kind, workflow=f"{_split(kind.workflow)[0]}@{workflows[_split(kind.workflow)]}")
            case MapNode():
                kind = replace(kind, body=node_pinned(kind.body))
            case _:
                pass
        if policy is not None and policy.fallback_agent:
            policy = replace(policy, fallback_agent=agent(policy.fallback_agent))
        return replace(node, kind=kind, policy=policy)

    return replace(workflow, nodes=tuple(node_pinned(node) for node in workflow.nodes))
