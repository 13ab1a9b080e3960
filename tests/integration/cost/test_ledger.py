"""What was spent, and the prices it is made of, over gRPC on real Postgres."""

import csv
import io
import json
from datetime import timedelta
from uuid import UUID

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from comitia.cost.v1 import cost_pb2, rollup_pb2
from comitia.cost.v1 import ledger_service_pb2 as ledger_pb
from comitia.cost.v1 import pricing_service_pb2 as pricing_pb
from services.meshkit.core.identity import TenantId
from tests.integration.cost.conftest import CostMesh

pytestmark = pytest.mark.asyncio(loop_scope="module")

OTHER = TenantId(UUID(int=0xBEEF))


async def spend_some(mesh: CostMesh) -> None:
    """Spends 4,500 twice on one model and run, and 75,000 once on another."""
    anna = mesh.caller()
    await anna.spend(run_id="run_1", agent_name="Athena", project="apollo")
    mesh.clock.advance(seconds=10)
    await anna.spend(run_id="run_1", agent_name="Hermes")
    mesh.clock.advance(seconds=10)
    await anna.spend(run_id="run_2", agent_name="Athena", model="gpt-4o")
    await mesh.caller(tenant=OTHER).spend()


@pytest.mark.parametrize(
    ("by", "lines"),
    [
        (ledger_pb.COST_DIMENSION_UNSPECIFIED, [("gpt-4o", 75_000), ("gpt-4o-mini", 9_000)]),
        (ledger_pb.COST_DIMENSION_PROVIDER, [("openai", 84_000)]),
        (ledger_pb.COST_DIMENSION_AGENT, [("Athena", 79_500), ("Hermes", 4_500)]),
        (ledger_pb.COST_DIMENSION_RUN, [("run_2", 75_000), ("run_1", 9_000)]),
        (ledger_pb.COST_DIMENSION_PROJECT, [("", 79_500), ("apollo", 4_500)]),
        (ledger_pb.COST_DIMENSION_KIND, [("generate", 84_000)]),
    ],
)
async def test_charges_are_added_up_dearest_first(
    mesh: CostMesh, by: ledger_pb.CostDimension.ValueType, lines: list[tuple[str, int]]
) -> None:
    await spend_some(mesh)
    summary = await mesh.caller().call("GetCostSummary", ledger_pb.GetCostSummaryRequest(by=by))
    assert [(line.key, line.cost_nano_usd) for line in summary.lines] == lines
    assert (summary.total_nano_usd, summary.event_count, summary.assumed_nano_usd) == (84_000, 3, 0)
    assert sum(line.usage.input_tokens for line in summary.lines) == 30


async def test_a_summary_keeps_to_its_run_and_its_time(mesh: CostMesh) -> None:
    start = mesh.clock.now()
    await spend_some(mesh)
    anna = mesh.caller()

    def at(seconds: float) -> Timestamp:
        moment = Timestamp()
        moment.FromDatetime(start + timedelta(seconds=seconds))
        return moment

    for request, total in (
        (ledger_pb.GetCostSummaryRequest(run_id="run_1"), 9_000),
        (ledger_pb.GetCostSummaryRequest(start_time=at(5)), 79_500),
        (ledger_pb.GetCostSummaryRequest(end_time=at(5)), 4_500),
        (ledger_pb.GetCostSummaryRequest(start_time=at(5), end_time=at(15), run_id="run_1"), 4_500),
        (ledger_pb.GetCostSummaryRequest(run_id="run_3"), 0),
    ):
        assert (await anna.call("GetCostSummary", request)).total_nano_usd == total


async def test_a_summary_tells_the_top_spenders_of_a_project(mesh: CostMesh) -> None:
    await spend_some(mesh)
    anna = mesh.caller()
    request = ledger_pb.GetCostSummaryRequest(by=ledger_pb.COST_DIMENSION_AGENT, max_lines=1)
    summary = await anna.call("GetCostSummary", request)
    assert [(line.key, line.cost_nano_usd) for line in summary.lines] == [("Athena", 79_500)]
    assert summary.total_nano_usd == 84_000
    request = ledger_pb.GetCostSummaryRequest(by=ledger_pb.COST_DIMENSION_AGENT, project="apollo")
    assert (await anna.call("GetCostSummary", request)).total_nano_usd == 4_500


async def test_a_series_shows_every_step_and_adds_up_to_the_summary(mesh: CostMesh) -> None:
    start = mesh.clock.now()
    await spend_some(mesh)
    mesh.clock.advance(seconds=2 * 3600)
    await mesh.caller().spend(agent_name="Hermes")
    begin = Timestamp()
    begin.FromDatetime(start)
    request = ledger_pb.GetCostSeriesRequest(
        by=ledger_pb.COST_DIMENSION_AGENT, step=rollup_pb2.COST_STEP_HOUR, start_time=begin, max_lines=1
    )
    series = await mesh.caller().call("GetCostSeries", request)
    assert [(line.key, line.rest, line.total_nano_usd) for line in series.lines] == [
        ("Athena", False, 79_500),
        ("", True, 9_000),
    ]
    assert [point.cost_nano_usd for point in series.lines[1].points] == [4_500, 0, 4_500]
    assert series.total_nano_usd == 88_500
    whole = await mesh.caller().call("GetCostSeries", ledger_pb.GetCostSeriesRequest())
    assert (len(whole.lines), len(whole.lines[0].points), whole.total_nano_usd) == (1, 30, 88_500)
    request = ledger_pb.GetCostSeriesRequest(by=99)  # type: ignore[arg-type]
    assert await mesh.caller().refused("GetCostSeries", request) == "invalid/INVALID_FIELD"


async def exported(mesh: CostMesh, **changes: object) -> bytes:
    call = mesh.caller().stream("ExportCosts", ledger_pb.ExportCostsRequest(**changes))  # type: ignore[arg-type]
    return b"".join([piece.data async for piece in call])


async def test_what_is_charged_to_whom_is_exported(mesh: CostMesh) -> None:
    await spend_some(mesh)
    await mesh.caller().spend(agent_name="=SUM(A1:A9)")
    rows = list(csv.DictReader(io.StringIO((await exported(mesh)).decode(), newline="")))
    assert [(row["agent_name"], row["project"], row["model"], row["cost_nano_usd"]) for row in rows] == [
        ("'=SUM(A1:A9)", "", "gpt-4o-mini", "4500"),
        ("Athena", "", "gpt-4o", "75000"),
        ("Hermes", "", "gpt-4o-mini", "4500"),
        ("Athena", "apollo", "gpt-4o-mini", "4500"),
    ]
    assert {row["cost_usd"] for row in rows} == {"0.000004500", "0.000075000"}
    content = await exported(
        mesh, format=rollup_pb2.COST_EXPORT_FORMAT_JSON, detail=rollup_pb2.COST_EXPORT_DETAIL_EVENT
    )
    events = json.loads(content)
    assert [(event["run_id"], event["cost_nano_usd"]) for event in events][:2] == [("run_1", "4500"), ("run_1", "4500")]
    assert sum(int(event["cost_nano_usd"]) for event in events) == sum(int(row["cost_nano_usd"]) for row in rows)
    hours = (await exported(mesh, detail=rollup_pb2.COST_EXPORT_DETAIL_HOUR, project="apollo")).decode().splitlines()
    assert len(hours) == 2


async def test_an_export_of_another_tenant_is_empty(mesh: CostMesh) -> None:
    assert await exported(mesh, format=rollup_pb2.COST_EXPORT_FORMAT_JSON) == b"[\n]\n"


async def test_events_are_listed_newest_first_page_by_page(mesh: CostMesh) -> None:
    await spend_some(mesh)
    anna = mesh.caller()
    first = await anna.call("ListCostEvents", ledger_pb.ListCostEventsRequest(page_size=2))
    rest = await anna.call(
        "ListCostEvents", ledger_pb.ListCostEventsRequest(page_size=2, page_token=first.next_page_token)
    )
    assert [event.cost_nano_usd for event in (*first.cost_events, *rest.cost_events)] == [75_000, 4_500, 4_500]
    assert rest.next_page_token == ""
    assert [event.run_id for event in await anna.events(run_id="run_2")] == ["run_2"]
    event = first.cost_events[0]
    assert event.cost_event_id.startswith("cost_")
    assert (event.usage.input_tokens, event.usage.output_tokens) == (10, 5)


async def test_prices_are_listed_page_by_page_with_their_source(mesh: CostMesh) -> None:
    anna = mesh.caller()
    seen: list[tuple[str, str, int]] = []
    token = ""
    while True:
        page = await anna.call("ListPrices", pricing_pb.ListPricesRequest(page_size=100, page_token=token))
        seen += [(price.provider, price.model, price.min_prompt_tokens) for price in page.prices]
        token = page.next_page_token
        if not token:
            break
    assert seen == sorted(set(seen))
    assert ("openai", "gpt-5.4", 0) in seen
    assert len([price for price in seen if price[:2] == ("openai", "gpt-5.4")]) == 2
    mini = await anna.call("ListPrices", pricing_pb.ListPricesRequest(provider="openai", page_size=500))
    (price,) = [price for price in mini.prices if price.model == "gpt-4o-mini"]
    assert price.input_nano_usd_per_million == 150_000_000
    assert price.source.startswith("genai-prices ")
    assert len(price.digest) == 64
    free = await anna.call("ListPrices", pricing_pb.ListPricesRequest(provider="stub"))
    assert [(price.model, price.output_nano_usd_per_million) for price in free.prices] == [("*", 0)]


async def test_memory_has_a_price_of_its_own_and_a_judge_that_of_its_model(mesh: CostMesh) -> None:
    anna = mesh.caller()
    kind = cost_pb2.COST_KIND_MEMORY
    hold = await anna.reserve(kind=kind, provider="memory", model="recall", tool_cost_nano_usd=7, bound=None)
    await anna.settle(await anna.dispatch(hold))
    await anna.spend(kind=cost_pb2.COST_KIND_JUDGE, agent_name="Themis")
    summary = await anna.call("GetCostSummary", ledger_pb.GetCostSummaryRequest(by=ledger_pb.COST_DIMENSION_KIND))
    assert [(line.key, line.cost_nano_usd) for line in summary.lines] == [("judge", 4_500), ("memory", 7)]
