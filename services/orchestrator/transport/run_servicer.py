"""gRPC face of runs."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

from grpc.aio import ServicerContext

from comitia.guard_table import GUARDS
from comitia.orchestrator.v1 import run_pb2, run_service_pb2_grpc
from comitia.orchestrator.v1 import run_service_pb2 as pb
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Caller, TenantId
from services.meshkit.core.ids import to_uuid
from services.meshkit.core.paging import clamp_page_size, decode_page_token, encode_page_token, one_page
from services.meshkit.grpc.call import caller_of, current_call
from services.meshkit.grpc.guard import PermissionMissing, check_permission
from services.meshkit.grpc.limits import begin_watch
from services.meshkit.grpc.once import once
from services.orchestrator.engine.watch import RunWatch, ShownRun
from services.orchestrator.programs.planned_turn import READ_SIGNAL
from services.orchestrator.programs.run_view import TERMINAL_STATES
from services.orchestrator.programs.values import from_value
from services.orchestrator.transport.run_messages import to_start_run_command, to_stream_turns_query, turn_to_proto
from services.orchestrator.usecases.run_access import RunAccess
from services.orchestrator.usecases.start_run import StartRun
from services.orchestrator.usecases.steer_run import ENDORSES, CancelRun, PauseRun, ResumeRun, SignalRun
from services.orchestrator.usecases.stream_turns import StreamTurns

#: What may see what a run was given, and what it gave.
_READS: Final = GUARDS["/comitia.orchestrator.v1.RunService/GetRun"]
#: What may say that a person has read a text.
_ENDORSES: Final = replace(GUARDS["/comitia.orchestrator.v1.RunService/SignalRun"], permission=ENDORSES)


class RunReader(Protocol):
    """Reads runs of a tenant, sessions among them."""

    async def run(self, tenant: TenantId, run_id: str) -> run_pb2.Run:
        """Gives a run as it stands. Raises: RunNotFound."""
        ...

    async def run_at(self, tenant: TenantId, run_id: str, sequence: int) -> run_pb2.Run:
        """Gives a run as it stood after a fact. Raises: RunNotFound, Invalid: it has not come so far."""
        ...

    async def seen(self, tenant: TenantId, run_id: str) -> run_pb2.Run:
        """Gives a run as it was last written: whose it is, and the state it is in. Raises: RunNotFound."""
        ...

    async def runs(
        self, tenant: TenantId, *, before: str | None, most: int, open_only: bool
    ) -> tuple[Sequence[run_pb2.Run], bool]:
        """Gives runs newest first, those older than the run `before`; and whether there are more."""
        ...

    async def steps(
        self, tenant: TenantId, run_id: str, *, after: int = 0, most: int | None = None
    ) -> Sequence[run_pb2.RunStep]:
        """Gives steps of a run in the order in which they began, beyond the first `after`. Raises: RunNotFound."""
        ...


class RunServicer(run_service_pb2_grpc.RunServiceServicer):
    """Converts, calls one use case or the reader, converts back."""

    def __init__(
        self,
        *,
        start_run: StartRun,
        pause_run: PauseRun,
        resume_run: ResumeRun,
        cancel_run: CancelRun,
        signal_run: SignalRun,
        stream_turns: StreamTurns,
        runs: RunReader,
        watch: RunWatch,
        access: RunAccess,
    ) -> None:
        self._start_run = start_run
        self._pause_run = pause_run
        self._resume_run = resume_run
        self._cancel_run = cancel_run
        self._signal_run = signal_run
        self._stream_turns = stream_turns
        self._runs = runs
        self._watch = watch
        self._access = access

    async def StartRun(
        self, request: pb.StartRunRequest, context: ServicerContext[pb.StartRunRequest, pb.StartRunResponse]
    ) -> pb.StartRunResponse:
        """See the contract."""
        caller = caller_of(context)
        return pb.StartRunResponse(run=await self._start_run(to_start_run_command(request, caller=caller)))

    async def GetRun(
        self, request: pb.GetRunRequest, context: ServicerContext[pb.GetRunRequest, pb.GetRunResponse]
    ) -> pb.GetRunResponse:
        """See the contract."""
        if request.at_sequence < 0:
            raise Invalid("at_sequence", "must be 0 or the sequence of a fact")
        caller = caller_of(context)
        run = await self._readable(caller, request.run_id)
        tenant = caller.principal.tenant
        if request.at_sequence:
            return pb.GetRunResponse(run=await self._runs.run_at(tenant, run.run_id, request.at_sequence))
        return pb.GetRunResponse(run=await self._runs.run(tenant, run.run_id))

    async def ListRuns(
        self, request: pb.ListRunsRequest, context: ServicerContext[pb.ListRunsRequest, pb.ListRunsResponse]
    ) -> pb.ListRunsResponse:
        """See the contract."""
        size = clamp_page_size(request.page_size)
        place = decode_page_token(request.page_token, str)
        before = None if place is None else place[0]
        caller = caller_of(context)
        # A page of large runs ends early.
        page, more = await self._runs.runs(
            caller.principal.tenant, before=before, most=size, open_only=request.open_only
        )
        shown = await self._access.readable(caller, page)
        for run in shown:
            run.ClearField("input")
            run.ClearField("output")
        return pb.ListRunsResponse(runs=shown, next_page_token=encode_page_token(page[-1].run_id) if more else "")

    async def ListRunSteps(
        self,
        request: pb.ListRunStepsRequest,
        context: ServicerContext[pb.ListRunStepsRequest, pb.ListRunStepsResponse],
    ) -> pb.ListRunStepsResponse:
        """See the contract."""
        size = clamp_page_size(request.page_size)
        place = decode_page_token(request.page_token, int)
        # Steps are only ever added, and at the end.
        after = 0 if place is None else max(0, place[0])
        caller = caller_of(context)
        run = await self._readable(caller, request.run_id)
        found = await self._runs.steps(caller.principal.tenant, run.run_id, after=after, most=size + 1)
        page, more = one_page(list(enumerate(found, start=after + 1)), size, lambda numbered: (numbered[0],))
        return pb.ListRunStepsResponse(steps=[step for _, step in page], next_page_token=more)

    async def WatchRun(
        self, request: pb.WatchRunRequest, context: ServicerContext[pb.WatchRunRequest, pb.WatchRunResponse]
    ) -> AsyncGenerator[pb.WatchRunResponse]:
        """See the contract."""
        if request.after_sequence < 0:
            raise Invalid("after_sequence", "must be 0 or the sequence of an event")
        caller = caller_of(context)
        run = await self._readable(caller, request.run_id)
        if run.state in TERMINAL_STATES and request.after_sequence >= run.sequence:
            return
        call = current_call()
        events = self._watch.events(
            caller.principal.tenant,
            run.run_id,
            ShownRun(include_deltas=request.include_deltas),
            after=request.after_sequence,
            stopped=lambda: call is not None and call.drain.begun,
            begun=partial(begin_watch, context),
        )
        async with aclosing(events):
            async for event in events:
                # What was taken away meanwhile ends the stream; the gate remembers its answer for seconds.
                await self._access.to_read(caller, run)
                yield event

    async def PauseRun(
        self, request: pb.PauseRunRequest, context: ServicerContext[pb.PauseRunRequest, pb.PauseRunResponse]
    ) -> pb.PauseRunResponse:
        """See the contract."""
        caller, run_id = caller_of(context), _run_id(request.run_id)
        answer = await once(
            request,
            lambda: self._pause_run(caller, run_id),
            lambda run: pb.PauseRunResponse(run=run),
            answers=pb.PauseRunResponse,
        )
        _hide(caller, answer.run)
        return answer

    async def ResumeRun(
        self, request: pb.ResumeRunRequest, context: ServicerContext[pb.ResumeRunRequest, pb.ResumeRunResponse]
    ) -> pb.ResumeRunResponse:
        """See the contract."""
        caller, run_id = caller_of(context), _run_id(request.run_id)
        answer = await once(
            request,
            lambda: self._resume_run(caller, run_id),
            lambda run: pb.ResumeRunResponse(run=run),
            answers=pb.ResumeRunResponse,
        )
        _hide(caller, answer.run)
        return answer

    async def CancelRun(
        self, request: pb.CancelRunRequest, context: ServicerContext[pb.CancelRunRequest, pb.CancelRunResponse]
    ) -> pb.CancelRunResponse:
        """See the contract."""
        caller, run_id = caller_of(context), _run_id(request.run_id)
        answer = await once(
            request,
            lambda: self._cancel_run(caller, run_id),
            lambda run: pb.CancelRunResponse(run=run),
            answers=pb.CancelRunResponse,
        )
        _hide(caller, answer.run)
        return answer

    async def SignalRun(
        self, request: pb.SignalRunRequest, context: ServicerContext[pb.SignalRunRequest, pb.SignalRunResponse]
    ) -> pb.SignalRunResponse:
        """See the contract."""
        caller, run_id = caller_of(context), _run_id(request.run_id)
        if request.name == READ_SIGNAL:
            check_permission(caller.principal, _ENDORSES)
        payload = from_value(request.payload)
        answer = await once(
            request,
            lambda: self._signal_run(caller, run_id, request.name, payload),
            lambda run: pb.SignalRunResponse(run=run),
            answers=pb.SignalRunResponse,
        )
        _hide(caller, answer.run)
        return answer

    async def StreamTurns(
        self, request: pb.StreamTurnsRequest, context: ServicerContext[pb.StreamTurnsRequest, pb.StreamTurnsResponse]
    ) -> AsyncGenerator[pb.StreamTurnsResponse]:
        """See the contract."""
        async with aclosing(self._stream_turns(to_stream_turns_query(request, caller=caller_of(context)))) as found:
            async for one in found:
                yield turn_to_proto(one)

    async def _readable(self, caller: Caller, run_id: str) -> run_pb2.Run:
        run = await self._runs.seen(caller.principal.tenant, _run_id(run_id))
        await self._access.to_read(caller, run)
        return run


def _run_id(run_id: str) -> str:
    to_uuid(run_id, "run", field="run_id")
    return run_id


def _hide(caller: Caller, run: run_pb2.Run) -> None:
    """Takes content out of what is shown to somebody who steers a run and may not read it."""
    try:
        check_permission(caller.principal, _READS)
    except PermissionMissing:
        run.ClearField("input")
        run.ClearField("output")
