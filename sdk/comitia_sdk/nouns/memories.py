"""What agents remember."""

from collections.abc import AsyncGenerator, Sequence

from comitia.common.v1 import content_pb2
from comitia.memory.v1 import memory_service_pb2, memory_service_pb2_grpc
from comitia_sdk.connection import Connection


class AsyncMemories:
    """What agents remember."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = memory_service_pb2_grpc.MemoryServiceStub(connection.channel)

    async def remember(
        self, text: str, *, session_id: str = "", agent_name: str = "", tags: Sequence[str] = ()
    ) -> memory_service_pb2.Memory:
        """Stores a text. Raises: InvalidRequest, PermissionDenied."""
        part = content_pb2.Part(text=content_pb2.TextPart(text=text))
        request = memory_service_pb2.RememberRequest(
            session_id=session_id, agent_name=agent_name, parts=[part], tags=tags
        )
        return (await self._connection.call(self._stub.Remember, request)).memory

    async def recall(
        self,
        query: str,
        *,
        session_id: str = "",
        agent_name: str = "",
        recent_turns: int = 0,
        semantic_matches: int = 5,
    ) -> memory_service_pb2.RecallResponse:
        """Finds the session's latest turns and what is most similar to a query."""
        request = memory_service_pb2.RecallRequest(
            query=query,
            session_id=session_id,
            agent_name=agent_name,
            recent_turns=recent_turns,
            semantic_matches=semantic_matches,
        )
        return await self._connection.call(self._stub.Recall, request)

    async def get(self, memory_id: str) -> memory_service_pb2.Memory:
        """Fetches a memory. Raises: NotFound."""
        request = memory_service_pb2.GetMemoryRequest(memory_id=memory_id)
        return (await self._connection.call(self._stub.GetMemory, request)).memory

    async def list(
        self, *, session_id: str = "", agent_name: str = "", page_size: int = 0
    ) -> AsyncGenerator[memory_service_pb2.Memory]:
        """Gives memories, newest first."""
        request = memory_service_pb2.ListMemoriesRequest(
            session_id=session_id, agent_name=agent_name, page_size=page_size
        )
        async for page in self._connection.pages(self._stub.ListMemories, request):
            for memory in page.memories:
                yield memory

    async def forget(self, memory_id: str) -> None:
        """Forgets a memory. Raises: NotFound."""
        await self._connection.call(
            self._stub.ForgetMemory, memory_service_pb2.ForgetMemoryRequest(memory_id=memory_id)
        )
