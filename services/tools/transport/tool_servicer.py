"""The gRPC face of tools."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from comitia.tools.v1 import tool_service_pb2 as pb
from comitia.tools.v1.tool_service_pb2_grpc import ToolServiceServicer
from services.meshkit.content.received_context import as_reused, received_context
from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource
from services.meshkit.core.paging import clamp_page_size, decode_page_token, one_page
from services.meshkit.grpc.call import caller_of, seconds_left
from services.meshkit.grpc.once import once
from services.tools.domain.errors import CallArgumentsDiffer
from services.tools.domain.reference import parse_reference
from services.tools.domain.tool import Tool
from services.tools.domain.tool_rule import ToolRule
from services.tools.transport import convert
from services.tools.usecases.asked import Asked
from services.tools.usecases.catalogue import Catalogue
from services.tools.usecases.invoke_tool import InvokeTool
from services.tools.usecases.register_tool import RegisterTool
from services.tools.usecases.search_tools import SearchTools
from services.tools.usecases.stream_invoke_tool import StreamInvokeTool

#: Time kept back from the caller's deadline, so that the failure of a slow tool still gets through, seconds.
_MARGIN_SECONDS: Final = 0.25


class ToolServicer(ToolServiceServicer):
    """Converts, calls one use case or the catalogue, converts back. No decisions here."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        register_tool: RegisterTool,
        search_tools: SearchTools,
        invoke_tool: InvokeTool,
        stream_invoke_tool: StreamInvokeTool,
        clock: Clock,
        ids: IdSource,
    ) -> None:
        self._catalogue = catalogue
        self._register_tool = register_tool
        self._search_tools = search_tools
        self._invoke_tool = invoke_tool
        self._stream_invoke_tool = stream_invoke_tool
        self._clock = clock
        self._ids = ids

    async def RegisterTool(self, request: pb.RegisterToolRequest, context: object) -> pb.RegisterToolResponse:
        tenant = caller_of(context).principal.tenant

        async def register() -> Tool:
            return await self._register_tool(tenant, convert.tool_from_proto(request.tool))

        def registered(tool: Tool) -> pb.RegisterToolResponse:
            return pb.RegisterToolResponse(tool=convert.tool_to_proto(tool, self._catalogue.rule(tenant)))

        return await once(request, register, registered, answers=pb.RegisterToolResponse)

    async def GetTool(self, request: pb.GetToolRequest, context: object) -> pb.GetToolResponse:
        reference = parse_reference(request.name, field="name")
        tenant = caller_of(context).principal.tenant
        tool = await self._catalogue.find(tenant, reference)
        return pb.GetToolResponse(tool=convert.tool_to_proto(tool, self._catalogue.rule(tenant)))

    async def ListTools(self, request: pb.ListToolsRequest, context: object) -> pb.ListToolsResponse:
        tenant = caller_of(context).principal.tenant
        size = clamp_page_size(request.page_size)
        after = decode_page_token(request.page_token, str, str)
        rule = self._catalogue.rule(tenant)
        listed = ToolRule() if request.show_forbidden else rule
        if request.names:
            references = [parse_reference(name, field=f"names[{index}]") for index, name in enumerate(request.names)]
            found = await self._catalogue.named(tenant, references, rule=listed, after=after, most=size + 1)
        else:
            found = await self._catalogue.page(tenant, rule=listed, after=after, most=size + 1)
        page, more = one_page(found, size, lambda tool: (tool.name, tool.version))
        return pb.ListToolsResponse(tools=[convert.tool_to_proto(tool, rule) for tool in page], next_page_token=more)

    async def SearchTools(self, request: pb.SearchToolsRequest, context: object) -> pb.SearchToolsResponse:
        found = await self._search_tools(caller_of(context).principal, convert.query_of(request))
        return convert.found_to_proto(found)

    async def InvokeTool(self, request: pb.InvokeToolRequest, context: object) -> pb.InvokeToolResponse:
        with as_reused(request.request_id, CallArgumentsDiffer):
            invocation = await self._invoke_tool(self._asked(request, context, "InvokeTool"))
        return pb.InvokeToolResponse(invocation=convert.invocation_to_proto(invocation))

    async def StreamInvokeTool(
        self, request: pb.StreamInvokeToolRequest, context: object
    ) -> AsyncGenerator[pb.StreamInvokeToolResponse]:
        sequence = 0
        events = self._stream_invoke_tool(self._asked(request, context, "StreamInvokeTool"))
        with as_reused(request.request_id, CallArgumentsDiffer):
            async with aclosing(events):
                async for event in events:
                    sequence += 1
                    yield convert.event_to_proto(event, sequence)

    def _asked(self, request: convert.InvokeLike, context: object, method: str) -> Asked:
        caller = caller_of(context)
        whose, repeatable = received_context(
            request.context, caller, self._ids, request_id=request.request_id, method=method
        )
        left = seconds_left()
        return Asked(
            principal=caller.principal,
            context=whose,
            reference=parse_reference(request.name, field="name"),
            arguments=convert.arguments_of(request),
            choice=convert.choice_of(request, caller),
            repeatable=repeatable,
            deadline=self._clock.monotonic() + (60.0 if left is None else left - _MARGIN_SECONDS),
        )
