"""Memory, inference and tools, as turns ask them."""

from collections.abc import Awaitable, Callable

import grpc.aio

from comitia.inference.v1 import generation_pb2, inference_service_pb2, inference_service_pb2_grpc
from comitia.memory.v1 import memory_service_pb2, memory_service_pb2_grpc
from comitia.tools.v1 import tool_service_pb2, tool_service_pb2_grpc
from services.meshkit.core.errors import Unavailable
from services.meshkit.core.identity import Principal
from services.meshkit.grpc.channel import call_metadata
from services.meshkit.grpc.errors import remote_errors


class TurnNeighbours:
    """Implements `worker.caller.Neighbours` over one channel for each neighbour."""

    def __init__(self, *, memory: grpc.aio.Channel, inference: grpc.aio.Channel, tools: grpc.aio.Channel) -> None:
        self._memory = memory_service_pb2_grpc.MemoryServiceStub(memory)
        self._inference = inference_service_pb2_grpc.InferenceServiceStub(inference)
        self._tools = tool_service_pb2_grpc.ToolServiceStub(tools)

    async def recall(
        self, principal: Principal, request: memory_service_pb2.RecallRequest, *, seconds: float
    ) -> memory_service_pb2.RecallResponse:
        """See `Neighbours.recall`."""
        with remote_errors():
            return await self._memory.Recall(request, timeout=seconds, metadata=call_metadata(principal))

    async def remember(
        self, principal: Principal, request: memory_service_pb2.RememberRequest, *, seconds: float
    ) -> memory_service_pb2.RememberResponse:
        """See `Neighbours.remember`."""
        with remote_errors():
            return await self._memory.Remember(request, timeout=seconds, metadata=call_metadata(principal))

    async def generate(
        self,
        principal: Principal,
        request: inference_service_pb2.StreamGenerateRequest,
        *,
        seconds: float,
        on_text: Callable[[str, bool], Awaitable[None]],
    ) -> generation_pb2.Generation:
        """See `Neighbours.generate`."""
        with remote_errors():
            stream = self._inference.StreamGenerate(request, timeout=seconds, metadata=call_metadata(principal))
            async for event in stream:
                match event.WhichOneof("event"):
                    case "text_delta":
                        await on_text(event.text_delta, False)
                    case "restarted_by":
                        await on_text("", True)
                    case "generation":
                        return event.generation
                    case _:
                        pass
        # A stream that ends without an answer has failed, whatever its status says.
        raise Unavailable("inference")

    async def embed(
        self, principal: Principal, request: inference_service_pb2.EmbedRequest, *, seconds: float
    ) -> inference_service_pb2.EmbedResponse:
        """See `Neighbours.embed`."""
        with remote_errors():
            return await self._inference.Embed(request, timeout=seconds, metadata=call_metadata(principal))

    async def describe_tools(
        self, principal: Principal, request: tool_service_pb2.ListToolsRequest, *, seconds: float
    ) -> tool_service_pb2.ListToolsResponse:
        """See `Neighbours.describe_tools`."""
        with remote_errors():
            return await self._tools.ListTools(request, timeout=seconds, metadata=call_metadata(principal))

    async def invoke_tool(
        self, principal: Principal, request: tool_service_pb2.InvokeToolRequest, *, seconds: float
    ) -> tool_service_pb2.Invocation:
        """See `Neighbours.invoke_tool`."""
        with remote_errors():
            answer = await self._tools.InvokeTool(request, timeout=seconds, metadata=call_metadata(principal))
            return answer.invocation
