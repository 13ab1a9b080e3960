"""The built-in `http_get`, which takes a URL, and tools that fill a template of one."""

from collections.abc import Mapping

from services.meshkit.calls.ports import Clearance
from services.tools.builtins.http_reader import HttpReader
from services.tools.domain.invocation import ToolOutput
from services.tools.domain.tool import HttpGetSettings, Tool
from services.tools.domain.url_template import ArgumentUnusable, UrlTemplate
from services.tools.usecases.ports import Show


class HttpGet:
    """Fetches the URL that the call names. A `ToolExecutor`."""

    def __init__(self, reader: HttpReader) -> None:
        self._reader = reader

    async def run(
        self, tool: Tool, arguments: Mapping[str, object], clearance: Clearance, *, show: Show | None
    ) -> ToolOutput:
        """See `ToolExecutor.run`."""
        url = arguments.get("url")
        if not isinstance(url, str):
            return ToolOutput(text="the argument `url` is missing", failed=True, sent=False)
        return await self._reader.read(url, tool.http_get or HttpGetSettings(), clearance, show=show)


class HttpGetTemplate:
    """Fetches the URL that the tool's template gives with the call's arguments. A `ToolExecutor`."""

    def __init__(self, reader: HttpReader) -> None:
        self._reader = reader

    async def run(
        self, tool: Tool, arguments: Mapping[str, object], clearance: Clearance, *, show: Show | None
    ) -> ToolOutput:
        """See `ToolExecutor.run`."""
        http = tool.http_get or HttpGetSettings()
        try:
            url = UrlTemplate.parse(http.url_template).fill(arguments)
        except ArgumentUnusable as problem:
            return ToolOutput(text=str(problem), failed=True, sent=False)
        return await self._reader.read(url, http, clearance, show=show, encoded=True)
