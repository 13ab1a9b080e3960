"""Imports task graphs: nodes with a prompt, an agent and the nodes they depend on."""

from services.meshkit.documents.source import Path
from services.orchestrator.workflows.faults import Faults, Reason
from services.orchestrator.workflows.fields import said
from services.orchestrator.workflows.imported import Fields, Imported, own_id

_WHAT = "a task graph"
#: Attempts that our policy takes, less the first.
_MOST_RETRIES = 19


def import_task_graph(value: object, faults: Faults) -> Imported:
    """Turns a task graph into our own form; notes what it cannot take over."""
    fields = Fields(value, (), faults)
    imported = Imported()
    for name in ("name", "version", "description"):
        imported.put(name, *fields.get(name))
    nodes: list[object] = []
    for index, (item, path) in enumerate(fields.items("nodes", "tasks")):
        imported.origins[("nodes", index)] = path
        nodes.append(_node(Fields(item, path, faults), ("nodes", index), imported))
    imported.put("nodes", nodes, fields.get("nodes", "tasks")[1])
    fields.done(_WHAT)
    return imported


def _node(fields: Fields, at: Path, imported: Imported) -> dict[str, object]:
    identity, imported.origins[(*at, "id")] = fields.get("id", "task_id")
    agent, imported.origins[(*at, "agent", "agent")] = fields.get("agent", "assigned_agent")
    prompt, imported.origins[(*at, "agent", "prompt")] = fields.get("prompt")
    edges: list[object] = []
    given: dict[str, object] = {}
    for number, (name, path) in enumerate(fields.items("deps", "dependencies")):
        imported.origins[(*at, "depends_on", number)] = path
        own = own_id(name)
        edges.append(own)
        if isinstance(own, str):
            imported.origins[(*at, "input", own)] = path
            given[own] = {"cel": f"nodes.{own}.output"}
    policy = _policy(fields, (*at, "policy"), imported)
    fields.done(_WHAT)
    return {
        "id": own_id(identity),
        "agent": {"agent": agent, "prompt": prompt},
        "input": given,
        "depends_on": edges,
        "policy": policy,
    }


def _policy(fields: Fields, at: Path, imported: Imported) -> dict[str, object]:
    policy: dict[str, object] = {}
    retries, path = fields.get("retries")
    if isinstance(retries, int) and 0 <= retries <= _MOST_RETRIES:
        imported.origins[(*at, "retries")] = path
        policy["retries"] = {"max_attempts": retries + 1}
    elif retries is not None:
        fields.refuse(("retries",), Reason.OUT_OF_RANGE, f"must be 0 to {_MOST_RETRIES} retries, is {said(retries)}")
    fallback, path = fields.get("fallback_agent")
    if fallback is not None:
        imported.origins[(*at, "fallback_agent")] = path
        policy["fallback_agent"] = fallback
    return policy
