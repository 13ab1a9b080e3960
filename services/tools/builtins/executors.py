"""Which executor runs which tool."""

from services.meshkit.core.errors import Internal
from services.tools.domain.tool import CALCULATOR, HTTP_GET, Mode, Tool
from services.tools.usecases.ports import ToolExecutor


class Executors:
    """Picks by mode, and by name among the built-ins."""

    def __init__(self, *, calculator: ToolExecutor, http_get: ToolExecutor, template: ToolExecutor) -> None:
        self._builtins = {CALCULATOR: calculator, HTTP_GET: http_get}
        self._template = template

    def of(self, tool: Tool) -> ToolExecutor:
        """Gives what runs a tool."""
        if tool.mode is Mode.HTTP_GET:
            return self._template
        executor = self._builtins.get(tool.builtin)
        if executor is None:
            raise Internal("a stored tool names a built-in that this release has not", tool=tool.reference)
        return executor
