"""Memory, inference and tools, as turns ask them: the calls of every turn as frames of batch streams."""

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from random import Random

import grpc.aio

from comitia.inference.v1 import generation_pb2, inference_service_pb2, inference_service_pb2_grpc
from comitia.memory.v1 import memory_service_pb2, memory_service_pb2_grpc
from comitia.tools.v1 import tool_service_pb2, tool_service_pb2_grpc
from services.meshkit.batching.coalescer import Coalescer
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Unavailable
from services.meshkit.core.identity import Principal
from services.meshkit.grpc.channel import call_metadata
from services.meshkit.grpc.errors import remote_errors

Memories = Coalescer[memory_service_pb2.BatchMemoriesRequest.Item, memory_service_pb2.BatchMemoriesResponse.Item]
Generations = Coalescer[
    inference_service_pb2.BatchGenerateRequest.Item, inference_service_pb2.BatchGenerateResponse.Item
]

#: Gets each piece of text, and whether what came before is void.
OnText = Callable[[str, bool], Awaitable[None]]


def memories(to_memory: grpc.aio.Channel, *, clock: Clock) -> Memories:
    """Gives the batch stream on which memory is asked, to be opened with `async with`."""
    stub = memory_service_pb2_grpc.MemoryServiceStub(to_memory)
    frame = memory_service_pb2.BatchMemoriesRequest
    return Memories(stub.BatchMemories, frame=frame, name="memory", clock=clock, random=Random())


def generations(to_inference: grpc.aio.Channel, *, clock: Clock) -> Generations:
    """Gives the batch stream on which models are asked, to be opened with `async with`."""
    stub = inference_service_pb2_grpc.InferenceServiceStub(to_inference)
    frame = inference_service_pb2.BatchGenerateRequest
    return Generations(stub.BatchGenerate, frame=frame, name="inference", clock=clock, random=Random())


class TurnNeighbours:
    """Implements `worker.caller.Neighbours`: what every turn asks goes over streams, the rest over channels."""

    def __init__(
        self,
        *,
        memories: Memories,
        generations: Generations,
        inference: grpc.aio.Channel,
        tools: grpc.aio.Channel,
    ) -> None:
        self._memories = memories
        self._generations = generations
        self._inference = inference_service_pb2_grpc.InferenceServiceStub(inference)
        self._tools = tool_service_pb2_grpc.ToolServiceStub(tools)

    async def recall(
        self, principal: Principal, request: memory_service_pb2.RecallRequest, *, seconds: float
    ) -> memory_service_pb2.RecallResponse:
        """See `Neighbours.recall`."""
        item = memory_service_pb2.BatchMemoriesRequest.Item(recall=request)
        return (await self._memories.call(item, principal=principal, timeout_seconds=seconds)).recall

    async def remember(
        self, principal: Principal, request: memory_service_pb2.RememberRequest, *, seconds: float
    ) -> memory_service_pb2.RememberResponse:
        """See `Neighbours.remember`."""
        item = memory_service_pb2.BatchMemoriesRequest.Item(remember=request)
        return (await self._memories.call(item, principal=principal, timeout_seconds=seconds)).remember

    async def generate(
        self,
        principal: Principal,
        request: inference_service_pb2.StreamGenerateRequest,
        *,
        seconds: float,
        on_text: OnText,
    ) -> generation_pb2.Generation:
        """See `Neighbours.generate`."""
        item = inference_service_pb2.BatchGenerateRequest.Item(generate=request, include_deltas=True)
        answers = self._generations.stream(item, principal=principal, timeout_seconds=seconds)
        async with aclosing(answers):
            async for answer in answers:
                match answer.WhichOneof("event"):
                    case "text_delta":
                        await on_text(answer.text_delta, False)
                    case "restarted_by":
                        await on_text("", True)
                    case "generation":
                        return answer.generation
                    case _:
                        pass
        # Answers that end without a generation have failed, whatever their status says.
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
