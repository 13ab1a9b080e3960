"""gRPC face of the record of runs."""

from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from typing import Final

from grpc.aio import ServicerContext

from comitia.orchestrator.v1 import record_service_pb2 as pb
from comitia.orchestrator.v1 import record_service_pb2_grpc
from services.meshkit.grpc.call import caller_of
from services.orchestrator.usecases.export_run import ExportRun
from services.orchestrator.usecases.replay_run import ReplayRun

#: Most bytes of a file in one message.
PIECE_BYTES: Final = 64 * 1024


class RecordServicer(record_service_pb2_grpc.RecordServiceServicer):
    """Converts, calls one use case, converts back."""

    def __init__(self, *, replay_run: ReplayRun, export_run: ExportRun) -> None:
        self._replay_run = replay_run
        self._export_run = export_run

    async def ReplayRun(
        self, request: pb.ReplayRunRequest, context: ServicerContext[pb.ReplayRunRequest, pb.ReplayRunResponse]
    ) -> pb.ReplayRunResponse:
        """See the contract."""
        return pb.ReplayRunResponse(replay=await self._replay_run(caller_of(context), request.run_id))

    async def ExportRun(
        self, request: pb.ExportRunRequest, context: ServicerContext[pb.ExportRunRequest, pb.ExportRunResponse]
    ) -> AsyncGenerator[pb.ExportRunResponse]:
        """See the contract."""
        async with aclosing(self._export_run(caller_of(context), request.run_id)) as lines:
            async for piece in _pieces(lines):
                yield pb.ExportRunResponse(data=piece)


async def _pieces(lines: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    """Cuts and joins lines, so that no message is too long and few are short."""
    kept = bytearray()
    async for line in lines:
        kept += line
        while len(kept) >= PIECE_BYTES:
            yield bytes(kept[:PIECE_BYTES])
            del kept[:PIECE_BYTES]
    if kept:
        yield bytes(kept)
