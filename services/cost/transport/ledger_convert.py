"""Proto to reports on the ledger and back; pure."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, cast

from comitia.cost.v1 import cost_pb2, rollup_pb2
from comitia.cost.v1 import ledger_service_pb2 as pb
from services.cost.domain.cost_event import CostEvent
from services.cost.domain.cost_file import FileFormat
from services.cost.domain.rollup import Span, Step, stepped, steps_of
from services.cost.transport import fields
from services.cost.usecases.export_costs import Detail, ExportOrder
from services.cost.usecases.ledger_ports import (
    CostFilter,
    Dimension,
    SeriesLine,
    SeriesQuery,
    Summary,
    SummaryQuery,
    Sums,
)
from services.meshkit.content.proto import usage_to_proto
from services.meshkit.core.access import BoundToProject
from services.meshkit.core.errors import Invalid
from services.meshkit.core.ids import from_uuid

_MOST_NAME: Final = 200
_MOST_LINES: Final = 500
_SERIES_LINES: Final = 10
_MOST_SERIES_LINES: Final = 20
_DIMENSIONS: Final = {int(dimension): dimension for dimension in Dimension}
_STEPS: Final = {0: Step.DAY, **{int(step): step for step in Step}}
_FORMATS: Final = {0: FileFormat.CSV, **{int(form): form for form in FileFormat}}
_DETAILS: Final = {0: Detail.DAY, **{int(detail): detail for detail in Detail}}


#: What every request for a report has.
_Asked = pb.GetCostSummaryRequest | pb.GetCostSeriesRequest | pb.ExportCostsRequest


# --- requests --------------------------------------------------------------------------------------------------------
# `bound_to` is the project that the caller is bound to, None for whoever is bound to none.


def to_events_filter(request: pb.ListCostEventsRequest, *, bound_to: str | None) -> CostFilter:
    """Reads which charges to list. Raises: Invalid."""
    return CostFilter(run_id=_run(request.run_id), project=bound_to)


def to_summary_query(request: pb.GetCostSummaryRequest, *, bound_to: str | None) -> tuple[SummaryQuery, int]:
    """Reads what to add up, and into how many lines. Raises: Invalid, BoundToProject."""
    by = _dimension(request.by) or Dimension.MODEL
    most = _most(request.max_lines, default=_MOST_LINES, most=_MOST_LINES)
    return SummaryQuery(by=by, span=_span(request), only=_only(request, bound_to)), most


def to_series_query(
    request: pb.GetCostSeriesRequest, *, now: datetime, bound_to: str | None
) -> tuple[SeriesQuery, int]:
    """Reads what to add up by time, and into how many lines. Raises: Invalid, BoundToProject."""
    by = _dimension(request.by)
    step = _STEPS.get(request.step)
    if step is None:
        raise Invalid("step", "must be HOUR or DAY")
    most = _most(request.max_lines, default=_SERIES_LINES, most=_MOST_SERIES_LINES)
    span = stepped(_span(request), step, now=now)
    return SeriesQuery(by=by, step=step, span=span, only=_only(request, bound_to)), most


def to_export_order(request: pb.ExportCostsRequest, *, bound_to: str | None) -> ExportOrder:
    """Reads what to export. Raises: Invalid, BoundToProject."""
    form, detail = _FORMATS.get(request.format), _DETAILS.get(request.detail)
    if form is None:
        raise Invalid("format", "must be CSV or JSON")
    if detail is None:
        raise Invalid("detail", "must be one of DAY, HOUR, EVENT")
    return ExportOrder(form=form, detail=detail, span=_span(request), only=_only(request, bound_to))


def _dimension(value: int) -> Dimension | None:
    if value and value not in _DIMENSIONS:
        raise Invalid("by", "must be one of MODEL, PROVIDER, AGENT, RUN, PROJECT, KIND, TOOL")
    return _DIMENSIONS.get(value)


def _span(request: _Asked) -> Span:
    start = fields.time_of(request.start_time, "start_time") if request.HasField("start_time") else None
    end = fields.time_of(request.end_time, "end_time") if request.HasField("end_time") else None
    if start is not None and end is not None and end < start:
        raise Invalid("end_time", "must not be before start_time")
    return Span(start, end)


def _run(run_id: str) -> str | None:
    return fields.text_of(run_id, "run_id", most=_MOST_NAME) or None


def _only(request: _Asked, bound_to: str | None) -> CostFilter:
    project = fields.text_of(request.project, "project", most=_MOST_NAME) or bound_to
    if bound_to is not None and project != bound_to:
        raise BoundToProject(bound_to)
    return CostFilter(
        run_id=_run(request.run_id),
        project=project,
        agent_name=fields.text_of(request.agent_name, "agent_name", most=_MOST_NAME) or None,
    )


def _most(asked: int, *, default: int, most: int) -> int:
    if asked < 0:
        raise Invalid("max_lines", f"must be 0 (default {default}) to {most}")
    return min(asked, most) or default


# --- answers ---------------------------------------------------------------------------------------------------------


def cost_event_to_proto(event: CostEvent) -> cost_pb2.CostEvent:
    """Writes an entry of the ledger."""
    context = event.purpose.context
    return cost_pb2.CostEvent(
        cost_event_id=from_uuid("cost", event.id),
        hold_id=from_uuid("hold", event.hold),
        kind=cast(cost_pb2.CostKind.ValueType, int(event.purpose.kind)),
        provider=event.purpose.provider,
        model=event.purpose.model,
        agent_name=context.agent_name,
        run_id=context.call_id.run_id,
        path=context.call_id.path,
        usage=usage_to_proto(event.usage),
        cost_nano_usd=event.cost,
        assumed=event.assumed,
        reversal=event.reversal,
        price_digest="" if event.price is None else event.price.hex(),
        create_time=fields.timestamp_of(event.created),
        project=context.project,
        note=event.note,
        unpriced=event.unpriced,
    )


def summary_to_proto(summary: Summary) -> pb.GetCostSummaryResponse:
    """Writes sums of charges."""
    return pb.GetCostSummaryResponse(
        lines=[
            pb.GetCostSummaryResponse.Line(
                key=line.key,
                event_count=line.sums.events,
                usage=usage_to_proto(line.sums.usage),
                cost_nano_usd=line.sums.cost,
                assumed_nano_usd=line.sums.assumed,
                unpriced_event_count=line.sums.unpriced_events,
                unpriced_nano_usd=line.sums.unpriced,
            )
            for line in summary.lines
        ],
        total_nano_usd=summary.cost,
        assumed_nano_usd=summary.assumed,
        event_count=summary.events,
        unpriced_event_count=summary.unpriced_events,
        unpriced_nano_usd=summary.unpriced,
    )


def series_to_proto(lines: Sequence[SeriesLine], query: SeriesQuery) -> pb.GetCostSeriesResponse:
    """Writes lines with a point for each step."""
    start, end = query.span.start, query.span.end
    if start is None or end is None:
        raise ValueError("a series has a beginning and an end")
    return pb.GetCostSeriesResponse(
        lines=[
            rollup_pb2.CostSeries(
                key=line.key or "",
                rest=line.key is None,
                points=[
                    _point(moment, line.points.get(moment, _NOTHING)) for moment in steps_of(start, end, query.step)
                ],
                total_nano_usd=sum(sums.cost for sums in line.points.values()),
            )
            for line in lines
        ],
        start_time=fields.timestamp_of(start),
        end_time=fields.timestamp_of(end),
        step=cast(rollup_pb2.CostStep.ValueType, int(query.step)),
        total_nano_usd=sum(sums.cost for line in lines for sums in line.points.values()),
    )


_NOTHING: Final = Sums()


def _point(moment: datetime, sums: Sums) -> rollup_pb2.CostPoint:
    return rollup_pb2.CostPoint(
        start_time=fields.timestamp_of(moment),
        event_count=sums.events,
        usage=usage_to_proto(sums.usage),
        cost_nano_usd=sums.cost,
        assumed_nano_usd=sums.assumed,
        unpriced_event_count=sums.unpriced_events,
        unpriced_nano_usd=sums.unpriced,
    )
