"""What is asked of runs: proto to domain; and what is told of their turns, back. Pure."""

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from comitia.orchestrator.v1 import run_service_pb2
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Caller
from services.meshkit.core.ids import from_uuid, to_uuid
from services.meshkit.core.money import NanoUsd
from services.meshkit.core.paging import decode_page_token, encode_page_token
from services.orchestrator.domain.run import RunSpec
from services.orchestrator.engine.run import RunKind
from services.orchestrator.programs.values import from_struct
from services.orchestrator.transport.convert import key_of, preflight_of
from services.orchestrator.usecases.start_run import StartRunCommand
from services.orchestrator.usecases.stream_turns import EndOfTurns, RecordedTurn, StreamTurnsQuery


def to_start_run_command(request: run_service_pb2.StartRunRequest, *, caller: Caller) -> StartRunCommand:
    """Reads what a run is asked for.

    Raises: Invalid: `request_id` is no UUID, `deadline` or `preflight` is none.
    """
    spec = RunSpec(
        workflow=request.workflow,
        input=from_struct(request.input),
        max_cost=NanoUsd(request.max_cost_nano_usd),
        deadline=_deadline_of(request),
        metadata=dict(request.metadata),
        model=request.model,
    )
    return StartRunCommand(
        caller=caller, spec=spec, preflight=preflight_of(request.preflight), key=key_of(request, caller, RunKind.RUN)
    )


def to_stream_turns_query(request: run_service_pb2.StreamTurnsRequest, *, caller: Caller) -> StreamTurnsQuery:
    """Reads which turns are wanted. Raises: Invalid: a time or the page token is none."""
    place = decode_page_token(request.page_token, str, int)
    if place is not None and place[1] < 0:
        raise Invalid("page_token", "is not a token of this stream")
    return StreamTurnsQuery(
        caller=caller,
        after=_moment(request.after_time, "after_time") if request.HasField("after_time") else None,
        before=_moment(request.before_time, "before_time") if request.HasField("before_time") else None,
        most=request.page_size,
        place=None if place is None else (to_uuid(place[0], "run", field="page_token"), place[1]),
    )


def turn_to_proto(one: RecordedTurn | EndOfTurns) -> run_service_pb2.StreamTurnsResponse:
    """Writes a turn with its place, or the end."""
    if isinstance(one, EndOfTurns):
        token = "" if one.place is None else encode_page_token(from_uuid("run", one.place[0]), one.place[1])
        return run_service_pb2.StreamTurnsResponse(next_page_token=token, unreadable_runs=one.unreadable)
    return run_service_pb2.StreamTurnsResponse(
        run_id=one.run_id,
        sequence=one.sequence,
        record_time=one.entry.record_time,
        path=one.entry.path,
        workflow=one.workflow,
        turn=one.entry.step_completed.turn,
        next_page_token=encode_page_token(one.run_id, one.sequence),
    )


def _moment(at: Timestamp, field: str) -> datetime:
    try:
        return at.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as cause:
        raise Invalid(field, "must be a time between the years 1 and 9999") from cause


def _deadline_of(request: run_service_pb2.StartRunRequest) -> timedelta | None:
    if not request.HasField("deadline"):
        return None
    try:
        return request.deadline.ToTimedelta()
    except (ValueError, OverflowError) as cause:
        raise Invalid("deadline", "must be a duration") from cause
