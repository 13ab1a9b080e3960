"""What was spent, and the prices it is made of, over gRPC on real Postgres."""

from datetime import timedelta
from uuid import UUID

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from comitia.cost.v1 import cost_service_pb2 as pb
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
        (pb.COST_DIMENSION_UNSPECIFIED, [("gpt-4o", 75_000), ("gpt-4o-mini", 9_000)]),
        (pb.COST_DIMENSION_PROVIDER, [("openai", 84_000)]),
        (pb.COST_DIMENSION_AGENT, [("Athena", 79_500), ("Hermes", 4_500)]),
        (pb.COST_DIMENSION_RUN, [("run_2", 75_000), ("run_1", 9_000)]),
        (pb.COST_DIMENSION_PROJECT, [("", 79_500), ("apollo", 4_500)]),
        (pb.COST_DIMENSION_KIND, [("generate", 84_000)]),
    ],
)
async def test_charges_are_added_up_dearest_first(
    mesh: CostMesh, by: pb.CostDimension.ValueType, lines: list[tuple[str, int]]
) -> None:
    await spend_some(mesh)
    summary = await mesh.caller().call("GetCostSummary", pb.GetCostSummaryRequest(by=by))
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
        (pb.GetCostSummaryRequest(run_id="run_1"), 9_000),
        (pb.GetCostSummaryRequest(start_time=at(5)), 79_500),
        (pb.GetCostSummaryRequest(end_time=at(5)), 4_500),
        (pb.GetCostSummaryRequest(start_time=at(5), end_time=at(15), run_id="run_1"), 4_500),
        (pb.GetCostSummaryRequest(run_id="run_3"), 0),
    ):
        assert (await anna.call("GetCostSummary", request)).total_nano_usd == total


async def test_events_are_listed_newest_first_page_by_page(mesh: CostMesh) -> None:
    await spend_some(mesh)
    anna = mesh.caller()
    first = await anna.call("ListCostEvents", pb.ListCostEventsRequest(page_size=2))
    rest = await anna.call("ListCostEvents", pb.ListCostEventsRequest(page_size=2, page_token=first.next_page_token))
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
        page = await anna.call("ListPrices", pb.ListPricesRequest(page_size=100, page_token=token))
        seen += [(price.provider, price.model, price.min_prompt_tokens) for price in page.prices]
        token = page.next_page_token
        if not token:
            break
    assert seen == sorted(set(seen))
    assert ("openai", "gpt-5.4", 0) in seen
    assert len([price for price in seen if price[:2] == ("openai", "gpt-5.4")]) == 2
    mini = await anna.call("ListPrices", pb.ListPricesRequest(provider="openai", page_size=500))
    (price,) = [price for price in mini.prices if price.model == "gpt-4o-mini"]
    assert price.input_nano_usd_per_million == 150_000_000
    assert price.source.startswith("genai-prices ")
    assert len(price.digest) == 64
    free = await anna.call("ListPrices", pb.ListPricesRequest(provider="stub"))
    assert [(price.model, price.output_nano_usd_per_million) for price in free.prices] == [("*", 0)]
