"""The language of expressions that workflows are written in, as the deciders ask it."""

from comitia.orchestrator.v1 import workflow_pb2
from services.orchestrator.programs.graph_plan import Expression


class Expressions:
    """Compiles the expressions of one workflow."""

    def __init__(self, workflow: workflow_pb2.Workflow) -> None:
        self._workflow = workflow

    def value(self, value: workflow_pb2.NodeValue, *, body_of: str) -> Expression:
        """See `Language.value`."""
        raise ValueError("expressions are not read yet")

    def condition(self, condition: workflow_pb2.Condition) -> Expression:
        """See `Language.condition`."""
        raise ValueError("expressions are not read yet")

    def reduction(self, cel: str) -> Expression:
        """See `Language.reduction`."""
        raise ValueError("expressions are not read yet")
