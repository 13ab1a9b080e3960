"""gRPC face of memory."""

from collections.abc import AsyncIterator
from typing import Any

from grpc.aio import ServicerContext

from comitia.memory.v1 import memory_service_pb2 as pb
from comitia.memory.v1.memory_service_pb2_grpc import MemoryServiceServicer
from services.memory.domain.errors import CallArgumentsDiffer
from services.memory.domain.memory import checked_agent
from services.memory.transport import convert
from services.memory.usecases.forget_memory import ForgetMemory
from services.memory.usecases.ports import MemoryReader
from services.memory.usecases.project_access import ProjectAccess
from services.memory.usecases.recall import Recall
from services.memory.usecases.remember import Remember
from services.meshkit.batching.serve_batch import serve_items
from services.meshkit.batching.stream_session import BatchItem
from services.meshkit.content.received_context import as_reused
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Caller
from services.meshkit.core.ids import IdSource
from services.meshkit.core.paging import clamp_page_size, decode_time_place, one_page, time_place
from services.meshkit.grpc.call import caller_of
from services.meshkit.grpc.once import once

Context = ServicerContext[Any, Any]  # the request and answer types, which differ per RPC


class MemoryServicer(MemoryServiceServicer):
    """Converts, calls one use case or the repository, converts back. No decisions here."""

    def __init__(
        self,
        *,
        remember: Remember,
        recall: Recall,
        forget_memory: ForgetMemory,
        memories: MemoryReader,
        access: ProjectAccess,
        ids: IdSource,
    ) -> None:
        self._remember = remember
        self._recall = recall
        self._forget_memory = forget_memory
        self._memories = memories
        self._access = access
        self._ids = ids

    async def Remember(self, request: pb.RememberRequest, context: Context) -> pb.RememberResponse:
        """See the contract."""
        with as_reused(request.request_id, CallArgumentsDiffer):
            return await self._remembered(request, caller_of(context))

    async def Recall(self, request: pb.RecallRequest, context: Context) -> pb.RecallResponse:
        """See the contract."""
        return await self._recalled(request, caller_of(context))

    async def BatchMemories(
        self, request_iterator: AsyncIterator[pb.BatchMemoriesRequest], context: Context
    ) -> AsyncIterator[pb.BatchMemoriesResponse]:
        """See the contract. What the items of a frame read and write still shares round trips and transactions."""
        async for frame in serve_items(request_iterator, self._item, answers=pb.BatchMemoriesResponse):
            yield frame

    async def _item(self, item: BatchItem[pb.BatchMemoriesRequest.Item]) -> pb.BatchMemoriesResponse.Item:
        asked = item.message
        match asked.WhichOneof("operation"):
            case "recall":
                return pb.BatchMemoriesResponse.Item(recall=await self._recalled(asked.recall, item.caller))
            case "remember":
                return pb.BatchMemoriesResponse.Item(remember=await self._remembered(asked.remember, item.caller))
            case _:
                raise Invalid("operation", "must be one of recall, remember")

    async def _remembered(self, request: pb.RememberRequest, caller: Caller) -> pb.RememberResponse:
        wanted = convert.to_remembrance(request, caller, self._ids)
        await self._access.to_write(caller, wanted.project)
        memory = await self._remember(caller.principal, wanted)
        return pb.RememberResponse(memory=convert.memory_to_proto(memory), verdict_id=memory.verdict_id)

    async def _recalled(self, request: pb.RecallRequest, caller: Caller) -> pb.RecallResponse:
        query = convert.to_recall(request, caller, self._ids)
        await self._access.to_read(caller, query.project)
        recalled = await self._recall(caller.principal, query)
        return convert.recalled_to_proto(recalled)

    async def GetMemory(self, request: pb.GetMemoryRequest, context: Context) -> pb.GetMemoryResponse:
        """See the contract."""
        caller = caller_of(context)
        memory = await self._memories.get(caller.principal.tenant, convert.memory_id_of(request.memory_id))
        await self._access.to_read(caller, memory.project)
        return pb.GetMemoryResponse(memory=convert.memory_to_proto(memory))

    async def ListMemories(self, request: pb.ListMemoriesRequest, context: Context) -> pb.ListMemoriesResponse:
        """See the contract."""
        size, caller = clamp_page_size(request.page_size), caller_of(context)
        found = await self._memories.page(
            caller.principal.tenant,
            size=size + 1,
            after=decode_time_place(request.page_token),
            session=convert.session_of(request.session_id),
            agent=checked_agent(request.agent_name),
        )
        page, more = one_page(found, size, lambda memory: time_place(memory.created, memory.id))
        shown = await self._access.readable(caller, page)
        return pb.ListMemoriesResponse(memories=convert.memories_to_proto(shown), next_page_token=more)

    async def ForgetMemory(self, request: pb.ForgetMemoryRequest, context: Context) -> pb.ForgetMemoryResponse:
        """See the contract."""
        memory_id = convert.memory_id_of(request.memory_id)
        caller = caller_of(context)
        tenant = caller.principal.tenant
        await self._access.to_write(caller, await self._memories.project_of(tenant, memory_id))
        return await once(
            request,
            lambda: self._forget_memory(tenant, memory_id),
            lambda _forgotten: pb.ForgetMemoryResponse(),
            answers=pb.ForgetMemoryResponse,
        )
