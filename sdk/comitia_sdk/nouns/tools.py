"""Tools."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from comitia.tools.v1 import tool_service_pb2, tool_service_pb2_grpc
from comitia_sdk.connection import Connection

#: Longest wait for a tool, seconds.
_TOOL_TIMEOUT: Final = 120.0


class AsyncTools:
    """Tools, under law and money."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = tool_service_pb2_grpc.ToolServiceStub(connection.channel)

    async def register(self, tool: tool_service_pb2.Tool) -> tool_service_pb2.Tool:
        """Registers a version of a tool. Raises: InvalidRequest, AlreadyExists."""
        request = tool_service_pb2.RegisterToolRequest(tool=tool)
        return (await self._connection.call(self._stub.RegisterTool, request)).tool

    async def get(self, name: str) -> tool_service_pb2.Tool:
        """Fetches a tool by `name` or `name@version`. Raises: NotFound."""
        request = tool_service_pb2.GetToolRequest(name=name)
        return (await self._connection.call(self._stub.GetTool, request)).tool

    async def list(self, *, show_forbidden: bool = False, page_size: int = 0) -> AsyncGenerator[tool_service_pb2.Tool]:
        """Gives all tools that may be called, by name; on demand also those that the tenant's rules forbid."""
        request = tool_service_pb2.ListToolsRequest(page_size=page_size, show_forbidden=show_forbidden)
        async for page in self._connection.pages(self._stub.ListTools, request):
            for tool in page.tools:
                yield tool

    async def search(
        self, query: str, *, limit: int = 0, max_tokens: int = 0
    ) -> Sequence[tool_service_pb2.SearchToolsResponse.Match]:
        """Finds the tools that fit a task best."""
        request = tool_service_pb2.SearchToolsRequest(query=query, limit=limit, max_tokens=max_tokens)
        return (await self._connection.call(self._stub.SearchTools, request)).matches

    async def invoke(self, name: str, arguments: Mapping[str, Any]) -> tool_service_pb2.Invocation:
        """Calls a tool. A tool that fails is an answer with `failed` set. Raises: NotFound, InvalidRequest."""
        values = json_format.ParseDict(dict(arguments), Struct())
        request = tool_service_pb2.InvokeToolRequest(name=name, arguments=values)
        return (await self._connection.call(self._stub.InvokeTool, request, timeout=_TOOL_TIMEOUT)).invocation

    async def stream(
        self, name: str, arguments: Mapping[str, Any]
    ) -> AsyncGenerator[tool_service_pb2.StreamInvokeToolResponse]:
        """Calls a tool and gives its result as it comes; the last message is the whole of it."""
        values = json_format.ParseDict(dict(arguments), Struct())
        request = tool_service_pb2.StreamInvokeToolRequest(name=name, arguments=values)
        async for event in self._connection.stream(self._stub.StreamInvokeTool, request, timeout=_TOOL_TIMEOUT):
            yield event
