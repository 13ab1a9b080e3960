"""gRPC face of the record of runs."""

from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from typing import Final

from grpc.aio import ServicerContext

from comitia.guard_table import GUARDS
from comitia.orchestrator.v1 import record_service_pb2 as pb
from comitia.orchestrator.v1 import record_service_pb2_grpc
from services.meshkit.core.access import BoundToProject
from services.meshkit.core.identity import Principal
from services.meshkit.grpc.call import caller_of
from services.meshkit.grpc.guard import check_permission
from services.orchestrator.transport.record_messages import to_fork_command
from services.orchestrator.usecases.diff_runs import DiffRuns
from services.orchestrator.usecases.export_run import ExportRun
from services.orchestrator.usecases.fork_run import ForkRun
from services.orchestrator.usecases.prove_run import ProveRun
from services.orchestrator.usecases.replay_run import ReplayRun

#: Most bytes of a file in one message.
PIECE_BYTES: Final = 64 * 1024
#: What may see a run: the answer holds the input of the one that was forked.
_READS_RUNS: Final = GUARDS["/comitia.orchestrator.v1.RunService/GetRun"]
#: What may write policies, and so have another one than the law.
_WRITES_POLICIES: Final = GUARDS["/comitia.policy.v1.BundleService/CreateBundle"]
#: What may write an agent's instructions.
_WRITES_AGENTS: Final = GUARDS["/comitia.orchestrator.v1.AgentService/CreateAgent"]


class RecordServicer(record_service_pb2_grpc.RecordServiceServicer):
    """Converts, calls one use case, converts back."""

    def __init__(
        self,
        *,
        replay_run: ReplayRun,
        fork_run: ForkRun,
        diff_runs: DiffRuns,
        export_run: ExportRun,
        prove_run: ProveRun,
    ) -> None:
        self._replay_run = replay_run
        self._fork_run = fork_run
        self._diff_runs = diff_runs
        self._export_run = export_run
        self._prove_run = prove_run

    async def ReplayRun(
        self, request: pb.ReplayRunRequest, context: ServicerContext[pb.ReplayRunRequest, pb.ReplayRunResponse]
    ) -> pb.ReplayRunResponse:
        """See the contract."""
        return pb.ReplayRunResponse(replay=await self._replay_run(caller_of(context), request.run_id))

    async def ForkRun(
        self, request: pb.ForkRunRequest, context: ServicerContext[pb.ForkRunRequest, pb.ForkRunResponse]
    ) -> pb.ForkRunResponse:
        """See the contract."""
        caller = caller_of(context)
        check_permission(caller.principal, _READS_RUNS)
        if request.policy:
            _check_writes_policies(caller.principal)
        if any(change.instructions for change in request.agents):
            check_permission(caller.principal, _WRITES_AGENTS)
        return pb.ForkRunResponse(run=await self._fork_run(to_fork_command(request, caller=caller)))

    async def DiffRuns(
        self, request: pb.DiffRunsRequest, context: ServicerContext[pb.DiffRunsRequest, pb.DiffRunsResponse]
    ) -> pb.DiffRunsResponse:
        """See the contract."""
        found = await self._diff_runs(
            caller_of(context), request.run_id, request.other_run_id, by_meaning=request.by_meaning
        )
        return pb.DiffRunsResponse(difference=found)

    async def ExportRun(
        self, request: pb.ExportRunRequest, context: ServicerContext[pb.ExportRunRequest, pb.ExportRunResponse]
    ) -> AsyncGenerator[pb.ExportRunResponse]:
        """See the contract."""
        async with aclosing(self._export_run(caller_of(context), request.run_id)) as lines:
            async for piece in _pieces(lines):
                yield pb.ExportRunResponse(data=piece)

    async def GetRunProvenance(
        self,
        request: pb.GetRunProvenanceRequest,
        context: ServicerContext[pb.GetRunProvenanceRequest, pb.GetRunProvenanceResponse],
    ) -> pb.GetRunProvenanceResponse:
        """See the contract."""
        found = await self._prove_run(caller_of(context), request.run_id)
        return pb.GetRunProvenanceResponse(jws=found.jws, manifest=found.manifest, key_set=found.key_set)


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


def _check_writes_policies(principal: Principal) -> None:
    """Raises: PermissionMissing, BoundToProject: policies concern the whole tenant."""
    check_permission(principal, _WRITES_POLICIES)
    if principal.project is not None:
        raise BoundToProject(principal.project)
