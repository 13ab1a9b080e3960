"""The built-in `calculator`. Opens no socket."""

from collections.abc import Mapping

from services.meshkit.calls.ports import Clearance
from services.tools.builtins.expression import NotComputable, compute
from services.tools.domain.invocation import ToolOutput
from services.tools.domain.tool import Tool
from services.tools.usecases.ports import Show


class Calculator:
    """Computes the argument `expression`. A `ToolExecutor`."""

    async def run(
        self, tool: Tool, arguments: Mapping[str, object], clearance: Clearance, *, show: Show | None
    ) -> ToolOutput:
        """See `ToolExecutor.run`."""
        del clearance, show
        expression = arguments.get("expression")
        if not isinstance(expression, str):
            return ToolOutput(text="the argument `expression` is missing", failed=True)
        try:
            return ToolOutput(text=compute(expression))
        except NotComputable as problem:
            return ToolOutput(text=f"cannot compute: {problem}", failed=True)
