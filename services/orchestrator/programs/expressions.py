"""The language of expressions that workflows are written in, as the deciders ask it: CEL and JSONPath."""

from comitia.orchestrator.v1 import workflow_pb2
from services.orchestrator.conditions.errors import ExpressionRefused
from services.orchestrator.conditions.expressions import Expression, Scope
from services.orchestrator.conditions.expressions import Expressions as Compiled
from services.orchestrator.domain.workflow import Cel, JsonPath, MapNode
from services.orchestrator.workflows.faults import Faults
from services.orchestrator.workflows.message import document_from
from services.orchestrator.workflows.parse import parse


class Expressions:
    """Compiles the expressions of one workflow, which were checked when it was created. Implements `Language`.

    Raises: ValueError: it is no workflow that this release would have taken.
    """

    def __init__(self, workflow: workflow_pb2.Workflow) -> None:
        faults = Faults(None)
        parsed = parse(document_from(workflow), faults)
        if parsed is None or faults:
            raise ValueError(f"the workflow {workflow.name}@{workflow.version} cannot be read")
        self._compiled = Compiled(parsed.workflow)
        self._maps = {node.id: node.kind for node in parsed.workflow.nodes if isinstance(node.kind, MapNode)}

    def value(self, value: workflow_pb2.NodeValue, *, body_of: str) -> Expression:
        """See `Language.value`."""
        scope = self._compiled.body(body_of, self._maps[body_of]) if body_of else self._compiled.top
        return _compiled(scope, value)

    def condition(self, condition: workflow_pb2.Condition) -> Expression:
        """See `Language.condition`."""
        return _compiled(self._compiled.top, condition)

    def reduction(self, cel: str) -> Expression:
        """See `Language.reduction`."""
        return _compiled(self._compiled.reduction, workflow_pb2.Condition(cel=cel))


def _compiled(scope: Scope, written: workflow_pb2.NodeValue | workflow_pb2.Condition) -> Expression:
    try:
        return scope.compile(JsonPath(written.jsonpath) if written.jsonpath else Cel(written.cel))
    except ExpressionRefused as refusal:
        raise ValueError(refusal.sentence) from refusal
