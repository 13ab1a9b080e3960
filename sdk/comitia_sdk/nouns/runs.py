"""Runs of workflows, and sessions as the runs that they are."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid4

from comitia.orchestrator.v1 import run_pb2, run_service_pb2, run_service_pb2_grpc
from comitia_sdk.connection import Connection
from comitia_sdk.json_input import parse_input
from comitia_sdk.nouns.estimates import preflight_of
from comitia_sdk.resume import resumed

ENDED: Final = (run_pb2.RUN_STATE_SUCCEEDED, run_pb2.RUN_STATE_FAILED, run_pb2.RUN_STATE_CANCELLED)

#: The most that one call gives.
_TURNS_AT_ONCE: Final = 10_000


class AsyncRuns:
    """Runs of workflows, and sessions as the runs that they are."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = run_service_pb2_grpc.RunServiceStub(connection.channel)

    async def start(
        self,
        workflow: str,
        input: Mapping[str, Any] | None = None,  # as the contract calls it
        *,
        max_cost_nano_usd: int = 0,
        deadline: timedelta | None = None,
        metadata: Mapping[str, str] | None = None,
        model: str = "",
        preflight: str = "",
        request_id: str = "",
    ) -> run_pb2.Run:
        """Starts a run of a workflow and returns at once; follow it with `watch`.

        Args:
            workflow: `name`, its highest version, or `name@version`.
            input: what the run is given, as JSON.
            max_cost_nano_usd: hard limit with all the runs it starts; 0 means 1 USD.
            deadline: longest life, at most the workflow's.
            model: asked for every agent in place of its own.
            preflight: off, warn, reject or degrade: what is done when it may not fit its budgets; empty means what the
                workflow says, else what the operator has set.
            request_id: UUID that makes a repeat harmless; a new one when empty.
        Raises: InvalidRequest, NotFound, LimitReached.
        """
        request = run_service_pb2.StartRunRequest(
            workflow=workflow,
            max_cost_nano_usd=max_cost_nano_usd,
            metadata=metadata or {},
            model=model,
            request_id=request_id or str(uuid4()),
            preflight=preflight_of(preflight),
        )
        if input is not None:
            parse_input("input", dict(input), request.input)
        if deadline is not None:
            request.deadline.FromTimedelta(deadline)
        return (await self._connection.call(self._stub.StartRun, request)).run

    async def get(self, run_id: str, *, at_sequence: int = 0) -> run_pb2.Run:
        """Fetches a run as it stands, or as it stood after a fact. Raises: NotFound, InvalidRequest."""
        request = run_service_pb2.GetRunRequest(run_id=run_id, at_sequence=at_sequence)
        return (await self._connection.call(self._stub.GetRun, request)).run

    async def list(self, *, open_only: bool = False, page_size: int = 0) -> AsyncGenerator[run_pb2.Run]:
        """Gives all runs, newest first, sessions among them; without their inputs and outputs."""
        request = run_service_pb2.ListRunsRequest(open_only=open_only, page_size=page_size)
        async for page in self._connection.pages(self._stub.ListRuns, request):
            for run in page.runs:
                yield run

    async def steps(self, run_id: str, *, page_size: int = 0) -> AsyncGenerator[run_pb2.RunStep]:
        """Gives the steps of a run in the order in which they began. Raises: NotFound."""
        request = run_service_pb2.ListRunStepsRequest(run_id=run_id, page_size=page_size)
        async for page in self._connection.pages(self._stub.ListRunSteps, request):
            for step in page.steps:
                yield step

    async def watch(
        self, run_id: str, *, after_sequence: int = 0, include_deltas: bool = False
    ) -> AsyncGenerator[run_service_pb2.WatchRunResponse]:
        """Gives events as they happen until the run has ended; a broken stream is taken up where it broke.

        Recorded events come once each and in order.

        Args:
            include_deltas: True for text as it is written; it is live only, the recorded turn supersedes it.
        Raises: NotFound; MeshUnavailable when the mesh does not answer for about half a minute.
        """

        def open_after(sequence: int) -> AsyncGenerator[run_service_pb2.WatchRunResponse]:
            request = run_service_pb2.WatchRunRequest(
                run_id=run_id, after_sequence=sequence, include_deltas=include_deltas
            )
            return self._connection.stream(self._stub.WatchRun, request)

        async def over(sequence: int) -> bool:
            run = await self.get(run_id)
            return run.state in ENDED and run.sequence <= sequence

        following = resumed(open_after, after_sequence, recorded=_recorded, last=_last, over=over)
        async with aclosing(following) as events:
            async for event in events:
                yield event

    async def pause(self, run_id: str) -> run_pb2.Run:
        """Has a run make no new call until it is resumed. Raises: NotFound, FailedPrecondition."""
        request = run_service_pb2.PauseRunRequest(run_id=run_id)
        return (await self._connection.call(self._stub.PauseRun, request)).run

    async def resume(self, run_id: str) -> run_pb2.Run:
        """Lets a paused run go on, and begins its parked steps anew. Raises: NotFound, FailedPrecondition."""
        request = run_service_pb2.ResumeRunRequest(run_id=run_id)
        return (await self._connection.call(self._stub.ResumeRun, request)).run

    async def cancel(self, run_id: str) -> run_pb2.Run:
        """Stops a run. Raises: NotFound, FailedPrecondition."""
        request = run_service_pb2.CancelRunRequest(run_id=run_id)
        return (await self._connection.call(self._stub.CancelRun, request)).run

    async def signal(self, run_id: str, name: str, payload: Any = None) -> run_pb2.Run:  # JSON is open
        """Sends a signal to a run; one that no step waits for yet is kept for a later one.

        Args:
            payload: what it carries, as JSON.
        Raises: NotFound, InvalidRequest, FailedPrecondition: the run has ended.
        """
        request = run_service_pb2.SignalRunRequest(run_id=run_id, name=name)
        parse_input("payload", payload, request.payload)
        return (await self._connection.call(self._stub.SignalRun, request)).run

    async def stream_turns(
        self, *, after: datetime | None = None, before: datetime | None = None, most: int = 0
    ) -> AsyncGenerator[run_service_pb2.StreamTurnsResponse]:
        """Gives the recorded turns of all runs that were started in a stretch of time, the oldest run first.

        Every call of the mesh behind it, one for each 10,000 turns, is in the audit trail.

        Args:
            after: runs started then or later, with a time zone.
            before: runs started before.
            most: at most so many turns; 0 for all.
        Raises: InvalidRequest, PermissionDenied.
        """
        request, given = run_service_pb2.StreamTurnsRequest(), 0
        if after is not None:
            request.after_time.FromDatetime(after)
        if before is not None:
            request.before_time.FromDatetime(before)
        while True:
            request.page_size = min(most - given, _TURNS_AT_ONCE) if most else _TURNS_AT_ONCE
            async with aclosing(self._connection.stream(self._stub.StreamTurns, request)) as turns:
                async for one in turns:
                    request.page_token = one.next_page_token
                    if one.HasField("turn"):
                        given += 1
                        yield one
            if not request.page_token or given == most > 0:
                return


def _recorded(event: run_service_pb2.WatchRunResponse) -> bool:
    return not event.HasField("text_delta")


def _last(event: run_service_pb2.WatchRunResponse) -> bool:
    return event.run.state in ENDED
