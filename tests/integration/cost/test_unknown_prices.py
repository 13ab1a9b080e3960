"""Calls of models without a price, over gRPC on real Postgres: refused, or held and charged at a ceiling and marked."""

import asyncio
import csv
import json
from typing import Any
from uuid import uuid4

import pytest
from google.protobuf.duration_pb2 import Duration

from comitia.cost.v1 import cost_pb2, price_list_pb2, rollup_pb2
from comitia.cost.v1 import ledger_service_pb2 as ledger_pb
from comitia.cost.v1 import pricing_service_pb2 as pricing_pb
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import Role, TenantId
from tests.integration.cost.conftest import CostCaller, CostMesh, StartCost
from tests.integration.cost.test_pricing import a_model, priced, reprice, take
from tests.support.money import a_reserve

pytestmark = pytest.mark.asyncio(loop_scope="module")

REFUSE, FLAG = price_list_pb2.UNKNOWN_PRICE_RULE_REFUSE, price_list_pb2.UNKNOWN_PRICE_RULE_FLAG
#: What the settings allow at least: 600 dollars a million tokens, or 600,000 nano-USD a token.
LEAST = 600_000_000_000
A_TOKEN = 600_000


@pytest.fixture
def anna(mesh: CostMesh) -> CostCaller:
    return mesh.caller(Role.ADMIN)


async def flag(caller: CostCaller, **changes: Any) -> price_list_pb2.UnknownPrice:
    values: dict[str, Any] = {"rule": FLAG, **changes}
    request = pricing_pb.SetUnknownPriceRequest(**values)
    return (await caller.call("SetUnknownPrice", request)).unknown_price


async def summary(caller: CostCaller) -> ledger_pb.GetCostSummaryResponse:
    return await caller.call("GetCostSummary", ledger_pb.GetCostSummaryRequest())


async def test_calls_without_a_price_are_refused_until_a_tenant_flags_them(anna: CostCaller) -> None:
    model = a_model()
    shown = (await anna.call("GetUnknownPrice", pricing_pb.GetUnknownPriceRequest())).unknown_price
    assert (shown.rule, shown.ceiling_nano_usd_per_million, shown.least_ceiling_nano_usd_per_million) == (
        REFUSE,
        0,
        LEAST,
    )
    assert await anna.refused("Reserve", a_reserve(model=model)) == "precondition/PRICE_UNKNOWN"
    assert (await flag(anna)).ceiling_nano_usd_per_million == LEAST
    assert (await anna.reserve(model=model)).amount_nano_usd == 150 * A_TOKEN
    await anna.call("SetUnknownPrice", pricing_pb.SetUnknownPriceRequest(rule=REFUSE))
    assert await anna.refused("Reserve", a_reserve(model=model)) == "precondition/PRICE_UNKNOWN"


async def test_the_rule_of_one_tenant_is_not_anothers_even_in_one_frame(anna: CostCaller, mesh: CostMesh) -> None:
    model, other = a_model(), mesh.caller(Role.ADMIN, tenant=TenantId(uuid4()))
    await flag(anna)

    async def outcome(caller: CostCaller) -> str:
        try:
            return str((await caller.reserve(model=model)).amount_nano_usd)
        except MeshError as refusal:
            return refusal.reason

    outcomes = await asyncio.gather(*(outcome(caller) for caller in (anna, other) * 5))
    assert outcomes == [str(150 * A_TOKEN), "PRICE_UNKNOWN"] * 5


async def test_hard_budgets_hold_at_the_ceiling(anna: CostCaller) -> None:
    model = a_model()
    await flag(anna, ceiling_nano_usd_per_million=2 * LEAST)
    await anna.limit(3 * 300 * A_TOKEN)
    outcomes = await asyncio.gather(*(anna.reserve(model=model) for _ in range(10)), return_exceptions=True)
    held = [one for one in outcomes if isinstance(one, cost_pb2.Hold)]
    assert [hold.amount_nano_usd for hold in held] == [300 * A_TOKEN] * 3
    assert {one.reason for one in outcomes if isinstance(one, MeshError)} == {"BUDGET_EXHAUSTED"}


async def test_charges_without_a_price_are_shown_and_priced_once_a_list_names_the_model(
    anna: CostCaller, mesh: CostMesh
) -> None:
    model, never = a_model(), a_model()
    await flag(anna)
    for _ in range(2):
        await anna.spend(model=model, input_tokens=10, output_tokens=5)
    await anna.spend(model=never, input_tokens=1, output_tokens=0)
    await anna.spend()
    assert (await anna.budget()).spent_nano_usd == 31 * A_TOKEN + 4500
    events = await anna.events()
    assert sorted((one.model in (model, never), one.unpriced, bool(one.price_digest)) for one in events) == (
        [(False, False, True)] + [(True, True, False)] * 3
    )
    told = await summary(anna)
    assert (told.unpriced_event_count, told.unpriced_nano_usd) == (3, 31 * A_TOKEN)
    lines = {line.key: (line.unpriced_event_count, line.unpriced_nano_usd) for line in told.lines}
    assert lines == {model: (2, 30 * A_TOKEN), never: (1, A_TOKEN), "gpt-4o-mini": (0, 0)}
    assert (await anna.call("RepriceEvents", reprice(mesh))).event_count == 0
    await take(mesh, priced(model, "2"))
    assert (await summary(anna)).unpriced_event_count == 3
    done = await anna.call("RepriceEvents", reprice(mesh))
    assert (done.event_count, done.before_nano_usd, done.after_nano_usd) == (2, 30 * A_TOKEN, 60_000)
    assert (await anna.budget()).spent_nano_usd == A_TOKEN + 60_000 + 4500
    told = await summary(anna)
    assert (told.event_count, told.unpriced_event_count, told.unpriced_nano_usd) == (4, 1, A_TOKEN)
    assert told.total_nano_usd == A_TOKEN + 60_000 + 4500
    assert (await anna.call("RepriceEvents", reprice(mesh))).event_count == 0


async def test_a_call_in_progress_when_its_price_comes_is_settled_at_the_ceiling_and_priced_after(
    anna: CostCaller, mesh: CostMesh
) -> None:
    model = a_model()
    await flag(anna)
    hold = await anna.dispatch(await anna.reserve(model=model))
    await take(mesh, priced(model, "2"))
    assert (await anna.settle(hold, input_tokens=10)).charged_nano_usd == 10 * A_TOKEN
    await anna.call("RepriceEvents", reprice(mesh))
    assert (await anna.budget()).spent_nano_usd == 20_000


async def test_an_assumed_charge_without_a_price_is_corrected_by_late_usage_before_and_after_it_has_one(
    anna: CostCaller, mesh: CostMesh
) -> None:
    model = a_model()
    await flag(anna)
    early, late = [await anna.reserve(model=model, dispatched=True, ttl=Duration(seconds=5)) for _ in range(2)]

    async def assumed() -> bool:
        return (await anna.budget()).spent_nano_usd == 300 * A_TOKEN

    await mesh.until(assumed)
    assert (await summary(anna)).unpriced_event_count == 2
    assert (await anna.settle(early, input_tokens=10)).charged_nano_usd == 10 * A_TOKEN
    assert (await summary(anna)).unpriced_nano_usd == 160 * A_TOKEN
    await take(mesh, priced(model, "2"))
    await anna.call("RepriceEvents", reprice(mesh))
    assert (await anna.settle(late, input_tokens=10)).charged_nano_usd == 20_000
    told = await summary(anna)
    assert (told.total_nano_usd, told.event_count, told.unpriced_event_count, told.unpriced_nano_usd) == (
        40_000,
        2,
        0,
        0,
    )
    assert (await anna.budget()).spent_nano_usd == 40_000


async def test_exports_say_which_charges_have_no_price(anna: CostCaller) -> None:
    model = a_model()
    await flag(anna)
    await anna.spend(model=model, input_tokens=10, output_tokens=0)
    await anna.spend()

    async def export(**changes: Any) -> str:
        pieces = [piece.data async for piece in anna.stream("ExportCosts", ledger_pb.ExportCostsRequest(**changes))]
        return b"".join(pieces).decode()

    days = {row["model"]: row for row in csv.DictReader((await export()).splitlines())}
    columns = ("unpriced_event_count", "unpriced_nano_usd")
    assert [days[model][name] for name in columns] == ["1", str(10 * A_TOKEN)]
    assert [days["gpt-4o-mini"][name] for name in columns] == ["0", "0"]
    events = json.loads(
        await export(format=rollup_pb2.COST_EXPORT_FORMAT_JSON, detail=rollup_pb2.COST_EXPORT_DETAIL_EVENT)
    )
    assert {row["model"]: row["unpriced"] for row in events} == {model: True, "gpt-4o-mini": False}


@pytest.mark.parametrize(
    "changes",
    [
        {"rule": 0},
        {"rule": 9},
        {"rule": FLAG, "ceiling_nano_usd_per_million": LEAST - 1},
        {"rule": FLAG, "ceiling_nano_usd_per_million": -1},
        {"rule": FLAG, "ceiling_nano_usd_per_million": 2**62},
        {"rule": REFUSE, "ceiling_nano_usd_per_million": LEAST},
    ],
)
async def test_a_wrong_rule_is_named(anna: CostCaller, changes: dict[str, int]) -> None:
    request = pricing_pb.SetUnknownPriceRequest(**changes)  # type: ignore[arg-type]
    assert await anna.refused("SetUnknownPrice", request) == "invalid/INVALID_FIELD"


async def test_only_who_may_limit_budgets_sets_the_rule_and_a_repeat_is_harmless(
    anna: CostCaller, mesh: CostMesh
) -> None:
    user = mesh.caller(Role.TENANT_USER, peer=None)
    assert (
        await user.refused("SetUnknownPrice", pricing_pb.SetUnknownPriceRequest(rule=FLAG))
        == "denied/PERMISSION_MISSING"
    )
    request_id = str(uuid4())
    first = await flag(anna, request_id=request_id)
    await anna.call("SetUnknownPrice", pricing_pb.SetUnknownPriceRequest(rule=REFUSE))
    assert await flag(anna, request_id=request_id) == first
    shown = (await anna.call("GetUnknownPrice", pricing_pb.GetUnknownPriceRequest())).unknown_price
    assert shown.rule == REFUSE


async def test_an_installation_may_flag_by_default_at_a_ceiling_of_its_own(start_cost: StartCost) -> None:
    ceiling = {"unknown_price": "flag", "unknown_price_least_ceiling_nano_usd_per_million": 10**9}
    async with start_cost(**ceiling) as mesh:
        caller = mesh.caller(Role.ADMIN)
        assert (await caller.reserve(model=a_model())).amount_nano_usd == 150_000
