"""Imports graphs of typed nodes with `config` and `policy`, and edges `from` and `to`."""

import re
from collections.abc import Mapping
from typing import Final, cast

from services.meshkit.documents.source import Path
from services.orchestrator.workflows.faults import Faults, Reason
from services.orchestrator.workflows.fields import kind_of, said
from services.orchestrator.workflows.imported import Fields, Imported, Templates, own_id

_WHAT: Final = "a workflow of this form"
_PROMPT: Final = re.compile(r"([A-Za-z][A-Za-z0-9_-]{0,62})(?:@(\d{1,9}))?")
#: What an agent is asked whose instructions are the prompt.
ASKED: Final = "Do as your instructions say, for the data given here."
#: What says here how good an answer must be, by our own words.
_TIERS: Final = ("gold", "silver", "bronze")


def import_flow(value: object, faults: Faults) -> Imported:
    """Turns such a graph into our own form; notes what it cannot take over."""
    fields = Fields(value, (), faults)
    imported = Imported()
    for name in ("name", "description"):
        imported.put(name, *fields.get(name))
    version, path = fields.get("version")
    imported.put("version", f"{version}.0.0" if isinstance(version, int) else version, path)
    items = fields.items("nodes")
    names = [cast(Mapping[str, object], item).get("id") if isinstance(item, Mapping) else None for item, _ in items]
    templates = Templates(frozenset(name for name in names if isinstance(name, str)), faults)
    nodes: list[dict[str, object]] = []
    for index, (item, path) in enumerate(items):
        imported.origins[("nodes", index)] = path
        nodes.append(_Node(Fields(item, path, faults), ("nodes", index), imported, templates, faults).read())
    for node in nodes:
        if node["id"] in templates.parsed:
            cast(dict[str, object], node["policy"])["output_schema"] = {}
    _edges(fields, names, nodes, imported, faults)
    imported.put("nodes", nodes, fields.get("nodes")[1])
    imported.put("input_schema", templates.input_schema(), ())
    fields.done(_WHAT)
    return imported


def _edges(
    fields: Fields, names: list[object], nodes: list[dict[str, object]], imported: Imported, faults: Faults
) -> None:
    for item, path in fields.items("edges"):
        edge = Fields(item, path, faults)
        (first, first_path), (then, then_path) = edge.get("from"), edge.get("to")
        if then not in names:
            faults.add(then_path, Reason.UNKNOWN_NODE, f"names {said(then)}, which is no node")
        elif first is None:
            faults.add(first_path, Reason.REQUIRED, "is required")
        else:
            index = names.index(then)
            edges = cast(list[object], nodes[index].setdefault("depends_on", []))
            imported.origins[("nodes", index, "depends_on", len(edges))] = first_path
            edges.append(own_id(first))
        if edge.get("condition")[0] is not None:
            sentence = "conditions have no fixed meaning in this form; write our own, with `when` at the edge"
            edge.refuse(("condition",), Reason.NOT_IMPORTED, sentence)
        edge.done(_WHAT)


class _Node:
    """Turns one node."""

    def __init__(self, fields: Fields, at: Path, imported: Imported, templates: Templates, faults: Faults) -> None:
        self._fields = fields
        self._at = at
        self._origins = imported.origins
        self._templates = templates
        self._faults = faults

    def read(self) -> dict[str, object]:
        """Gives it in our own form."""
        identity, self._origins[(*self._at, "id")] = self._fields.get("id")
        kind, kind_path = self._fields.get("type")
        config_value, config_path = self._fields.get("config")
        config = Fields(config_value, config_path, self._faults)
        node: dict[str, object] = {"id": own_id(identity), "policy": self._policy()}
        match kind:
            case "tool":
                node |= self._tool(config)
            case "llm":
                node |= self._agent(config)
            case _:
                sentence = f"is {said(kind)}; `tool` and `llm` are taken over, write any other in our own form"
                self._faults.add(kind_path, Reason.NOT_IMPORTED, sentence)
                # Stands in its place, so that the rest of the graph is looked at.
                return {**node, "tool": {"tool": "not_imported"}}
        config.done(_WHAT)
        self._fields.done(_WHAT)
        return node

    def _tool(self, config: Fields) -> dict[str, object]:
        tool, self._origins[(*self._at, "tool", "tool")] = config.get("tool_name")
        return {"tool": {"tool": own_id(tool)}, "input": self._input(config, "tool_args")}

    def _agent(self, config: Fields) -> dict[str, object]:
        prompt, prompt_path = config.get("prompt")
        agent, agent_path = config.get("agent")
        reference, path = config.get("prompt_ref")
        if reference is not None:
            agent, agent_path = self._agent_of(reference, path), path
        asked: object = {"literal": ASKED} if prompt is None else self._templates.value(prompt, prompt_path)
        self._origins[(*self._at, "agent", "agent")] = agent_path
        self._origins[(*self._at, "agent", "prompt")] = prompt_path
        return {"agent": {"agent": agent, "prompt": asked}, "input": self._input(config, "inputs")}

    def _agent_of(self, reference: object, path: Path) -> str | None:
        match = _PROMPT.fullmatch(reference) if isinstance(reference, str) else None
        if match is None:
            sentence = f"must be a prompt such as summary@3, is {said(reference)}"
            self._faults.add(path, Reason.MALFORMED, sentence)
            # A name that says what it stands for in the fault about it that may follow.
            return None
        return match[1] if match[2] is None else f"{match[1]}@{int(match[2])}.0.0"

    def _input(self, config: Fields, name: str) -> dict[str, object]:
        given, path = config.get(name)
        if given is None:
            return {}
        if not isinstance(given, Mapping):
            self._faults.add(path, Reason.WRONG_TYPE, f"must be a mapping, is {kind_of(given)}")
            return {}
        values: dict[str, object] = {}
        for key, value in cast(Mapping[str, object], given).items():
            self._origins[(*self._at, "input", key)] = (*path, key)
            reference = self._templates.reference(value) if isinstance(value, str) else None
            values[key] = self._templates.value(value, (*path, key)) if reference is None else {"cel": reference}
        return values

    def _policy(self) -> dict[str, object]:
        value, path = self._fields.get("policy")
        fields = Fields(value, path, self._faults)
        quality, quality_path = fields.get("quality")
        sla, sla_path = fields.get("sla_ms")
        fields.done(_WHAT)
        policy: dict[str, object] = {}
        if isinstance(quality, str) and quality.lower() in _TIERS:
            policy["tier"] = quality.lower()
        elif quality is not None:
            self._faults.add(quality_path, Reason.UNKNOWN_VALUE, f"must be Gold, Silver or Bronze, is {said(quality)}")
        if sla is not None:
            policy["sla_ms"] = sla
        self._origins[(*self._at, "policy", "tier")] = quality_path
        self._origins[(*self._at, "policy", "sla_ms")] = sla_path
        return policy
