"""Requests as they come off the wire: what is wrong is named."""

from typing import Any
from uuid import UUID

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from comitia.common.v1 import usage_pb2
from comitia.cost.v1 import budget_service_pb2 as budget_pb
from comitia.cost.v1 import cost_pb2
from comitia.cost.v1 import ledger_service_pb2 as ledger_pb
from services.cost.transport import convert, ledger_convert
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Principal
from services.meshkit.core.ids import from_uuid
from tests.support.money import ANNA, NOON, a_reserve

CALLER = Principal(tenant=ANNA, subject="key_1", roles=frozenset())


@pytest.mark.parametrize(
    ("kind", "cheapest"),
    [
        (cost_pb2.COST_KIND_GENERATE, False),
        (cost_pb2.COST_KIND_JUDGE, False),
        (cost_pb2.COST_KIND_EMBED, True),
        (cost_pb2.COST_KIND_TOOL, True),
        (cost_pb2.COST_KIND_MEMORY, True),
    ],
)
def test_only_kinds_without_a_cheaper_form_pass_a_budget_that_degrades_unasked(kind: Any, cheapest: bool) -> None:
    assert convert.to_reserve(a_reserve(kind=kind), CALLER).cheapest is cheapest
    assert convert.to_reserve(a_reserve(kind=kind, cheapest=True), CALLER).cheapest


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"request_id": "once"}, "request_id"),
        ({"kind": 0}, "kind"),
        ({"kind": 99}, "kind"),
        ({"provider": ""}, "provider"),
        ({"model": "m" * 201}, "model"),
        ({"model": "gpt\x00"}, "model"),
        ({"bound": None}, "bound"),
        ({"bound": usage_pb2.Usage(input_tokens=-1)}, "bound.input_tokens"),
        ({"bound": usage_pb2.Usage(output_tokens=2**62)}, "bound.output_tokens"),
        ({"tool_cost_nano_usd": 1}, "tool_cost_nano_usd"),
        ({"kind": cost_pb2.COST_KIND_TOOL, "tool_cost_nano_usd": -1}, "tool_cost_nano_usd"),
        ({"ttl": Duration(nanos=999_999_999)}, "ttl"),
        ({"ttl": Duration(seconds=3601)}, "ttl"),
        ({"ttl": Duration(seconds=2**62)}, "ttl"),
        ({"run_id": ""}, "context.call_id.run_id"),
        ({"budget_ids": ["run_1"]}, "context.budget_ids[0]"),
        ({"budget_ids": [from_uuid("budget", UUID(int=n)) for n in range(17)]}, "context.budget_ids"),
        ({"agent_name": "A\x00"}, "context.agent_name"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as refusal:
        convert.to_reserve(a_reserve(**changes), CALLER)
    assert refusal.value.field == field


def test_a_token_bound_to_a_project_counts_for_that_project() -> None:
    bound = Principal(tenant=ANNA, subject="key_1", roles=frozenset(), project="apollo")
    asked = a_reserve(project="gemini")
    assert convert.to_reserve(asked, bound).purpose.context.project == "apollo"
    assert convert.to_reserve(asked, CALLER).purpose.context.project == "gemini"


def test_an_item_without_an_operation_is_refused() -> None:
    with pytest.raises(Invalid, match="operation"):
        convert.to_operation(budget_pb.BatchSpendRequest.Item(), CALLER)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (ledger_pb.GetCostSummaryRequest(by=99), "by"),  # type: ignore[arg-type]
        (ledger_pb.GetCostSummaryRequest(start_time=Timestamp(seconds=2**62)), "start_time"),
        (ledger_pb.GetCostSummaryRequest(start_time=Timestamp(seconds=2), end_time=Timestamp(seconds=1)), "end_time"),
        (ledger_pb.GetCostSummaryRequest(run_id="\x00"), "run_id"),
        (ledger_pb.GetCostSummaryRequest(project="p" * 201), "project"),
        (ledger_pb.GetCostSummaryRequest(agent_name="\x00"), "agent_name"),
        (ledger_pb.GetCostSummaryRequest(max_lines=-1), "max_lines"),
    ],
)
def test_a_wrong_summary_request_is_named(request_: ledger_pb.GetCostSummaryRequest, field: str) -> None:
    with pytest.raises(Invalid) as refusal:
        ledger_convert.to_summary_query(request_, bound_to=None)
    assert refusal.value.field == field


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (ledger_pb.GetCostSeriesRequest(by=99), "by"),  # type: ignore[arg-type]
        (ledger_pb.GetCostSeriesRequest(step=3), "step"),  # type: ignore[arg-type]
        (ledger_pb.GetCostSeriesRequest(max_lines=-1), "max_lines"),
        (ledger_pb.GetCostSeriesRequest(start_time=Timestamp(seconds=2), end_time=Timestamp(seconds=1)), "end_time"),
        (ledger_pb.GetCostSeriesRequest(start_time=Timestamp(seconds=1)), "start_time"),
    ],
)
def test_a_wrong_series_request_is_named(request_: ledger_pb.GetCostSeriesRequest, field: str) -> None:
    with pytest.raises(Invalid) as refusal:
        ledger_convert.to_series_query(request_, now=NOON, bound_to=None)
    assert refusal.value.field == field


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (ledger_pb.ExportCostsRequest(format=9), "format"),  # type: ignore[arg-type]
        (ledger_pb.ExportCostsRequest(detail=9), "detail"),  # type: ignore[arg-type]
        (ledger_pb.ExportCostsRequest(end_time=Timestamp(seconds=-(2**62))), "end_time"),
    ],
)
def test_a_wrong_export_request_is_named(request_: ledger_pb.ExportCostsRequest, field: str) -> None:
    with pytest.raises(Invalid) as refusal:
        ledger_convert.to_export_order(request_, bound_to=None)
    assert refusal.value.field == field
