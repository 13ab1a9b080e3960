"""Versions of tools, as runs pin them."""

from typing import Final

import grpc.aio

from comitia.tools.v1 import tool_service_pb2, tool_service_pb2_grpc
from services.meshkit.core.identity import Caller
from services.meshkit.grpc.channel import call_metadata
from services.meshkit.grpc.errors import remote_errors

_SECONDS: Final = 5.0


class ToolCatalogue:
    """Implements `usecases.ports.ToolVersions`."""

    def __init__(self, tools: grpc.aio.Channel) -> None:
        self._tools = tool_service_pb2_grpc.ToolServiceStub(tools)

    async def latest(self, caller: Caller, name: str) -> str:
        """See `ToolVersions.latest`."""
        request = tool_service_pb2.GetToolRequest(name=name)
        with remote_errors():
            answer = await self._tools.GetTool(request, timeout=_SECONDS, metadata=call_metadata(caller.principal))
        return f"{answer.tool.name}@{answer.tool.version}"
