"""Price lists and re-pricing over gRPC on real Postgres."""

from collections.abc import Callable
from datetime import timedelta
from random import Random
from uuid import uuid4

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from comitia.common.v1 import usage_pb2
from comitia.cost.v1 import budget_service_pb2 as budget_pb
from comitia.cost.v1 import cost_pb2, price_list_pb2
from comitia.cost.v1 import ledger_service_pb2 as ledger_pb
from comitia.cost.v1 import pricing_service_pb2 as pricing_pb
from services.cost.storage import repricing_store
from services.meshkit.core import failpoints as failpoints_of_code
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import Role, TenantId
from tests.integration.cost.conftest import CostMesh
from tests.support.money import a_reserve

pytestmark = pytest.mark.asyncio(loop_scope="module")

HEAD = "provider,model,aliases,start_time,input_usd_per_million,output_usd_per_million\n"
OPERATOR = Role.OPERATOR


def a_model() -> str:
    return f"model-{uuid4().hex}"


def priced(model: str, dollars: str, *, start: str = "2029-12-01", provider: str = "openai", aliases: str = "") -> str:
    return f"{HEAD}{provider},{model},{aliases},{start},{dollars},{dollars}\n"


def asked(content: str, **changes: object) -> pricing_pb.ImportPricesRequest:
    written = {"format": price_list_pb2.PRICE_LIST_FORMAT_CSV, "source": "the provider's page", "apply": True}
    values = {**written, **changes}
    return pricing_pb.ImportPricesRequest(content=content, **values)  # type: ignore[arg-type]


async def take(mesh: CostMesh, content: str, **changes: object) -> pricing_pb.ImportPricesResponse:
    return await mesh.caller(OPERATOR, peer=None).call("ImportPrices", asked(content, **changes))


def reprice(mesh: CostMesh, *, apply: bool = True, **changes: object) -> ledger_pb.RepriceEventsRequest:
    start = Timestamp()
    start.FromDatetime(mesh.clock.now() - timedelta(days=2))
    return ledger_pb.RepriceEventsRequest(start_time=start, apply=apply, **changes)  # type: ignore[arg-type]


async def test_a_list_holds_from_its_moment_on_and_can_be_tried_first(mesh: CostMesh) -> None:
    model, anna = a_model(), mesh.caller(Role.ADMIN)
    assert await anna.refused("Reserve", a_call(model)) == "precondition/PRICE_UNKNOWN"
    tried = await take(mesh, priced(model, "1"), apply=False)
    assert (tried.change_count, list(tried.changes[0].before)) == (1, [])
    assert await anna.refused("Reserve", a_call(model)) == "precondition/PRICE_UNKNOWN"
    request_id = str(uuid4())
    first = await take(mesh, priced(model, "1"), request_id=request_id)
    assert first.changes[0].after[0].input_nano_usd_per_million == 10**9
    assert first.changes[0].after[0].source == "imported: the provider's page"
    assert await take(mesh, priced(model, "1"), request_id=request_id) == first
    again = await take(mesh, priced(model, "1"))
    assert (again.change_count, again.unchanged_count) == (0, 1)
    assert (await anna.reserve(model=model, input_tokens=10, output_tokens=0)).amount_nano_usd == 10_000


def a_call(model: str) -> budget_pb.ReserveRequest:
    return a_reserve(model=model)


async def test_a_wrong_list_is_refused_as_a_whole(mesh: CostMesh) -> None:
    model = a_model()
    content = f"{priced(model, '1')}openai,{model}-2,,2029-12-01,-1,x\n"
    with pytest.raises(MeshError) as refusal:
        await take(mesh, content)
    assert refusal.value.reason == "PRICE_LIST_WRONG"
    assert "line 3, input_usd_per_million: must not be negative" in refusal.value.message
    assert "line 3, output_usd_per_million: must be an amount in dollars" in refusal.value.message
    assert await mesh.caller().refused("Reserve", a_call(model)) == "precondition/PRICE_UNKNOWN"


async def test_nothing_is_written_unless_it_is_asked_for(mesh: CostMesh) -> None:
    model, anna, operator = a_model(), mesh.caller(Role.ADMIN), mesh.caller(OPERATOR, peer=None)
    form = price_list_pb2.PRICE_LIST_FORMAT_CSV
    shown = await operator.call(
        "ImportPrices", pricing_pb.ImportPricesRequest(content=priced(model, "1"), format=form, source="a page")
    )
    assert shown.change_count == 1
    assert await anna.refused("Reserve", a_call(model)) == "precondition/PRICE_UNKNOWN"
    await take(mesh, priced(model, "1"))
    await anna.spend(model=model, input_tokens=10, output_tokens=0)
    await take(mesh, priced(model, "2"))
    shown = await anna.call("RepriceEvents", ledger_pb.RepriceEventsRequest(start_time=reprice(mesh).start_time))
    assert (shown.event_count, shown.after_nano_usd) == (1, 20_000)
    assert (await anna.budget()).spent_nano_usd == 10_000


async def test_prices_are_listed_with_all_their_names_whatever_case_is_asked_in(mesh: CostMesh) -> None:
    model, anna = a_model(), mesh.caller(Role.ADMIN)
    await take(mesh, priced(model, "1", provider="Walk", aliases=f"{model}-nick"))
    listed = await anna.call("ListPrices", pricing_pb.ListPricesRequest(provider="wALK", page_size=500))
    assert [(one.provider, *one.aliases) for one in listed.prices if one.model == model] == [("Walk", f"{model}-nick")]


@pytest.mark.parametrize("changes", [{"format": 0}, {"source": ""}, {"source": "\x00"}])
async def test_a_wrong_order_is_named(mesh: CostMesh, changes: dict[str, object]) -> None:
    operator = mesh.caller(OPERATOR, peer=None)
    assert await operator.refused("ImportPrices", asked(HEAD, **changes)) == "invalid/INVALID_FIELD"


async def test_only_operators_import_and_only_admins_reprice(mesh: CostMesh) -> None:
    admin, user = mesh.caller(Role.ADMIN, peer=None), mesh.caller(Role.TENANT_USER, peer=None)
    assert await admin.refused("ImportPrices", asked(HEAD)) == "denied/PERMISSION_MISSING"
    assert await user.refused("RepriceEvents", reprice(mesh)) == "denied/PERMISSION_MISSING"


async def test_charges_are_taken_back_and_written_at_their_new_price(mesh: CostMesh) -> None:
    model, anna = a_model(), mesh.caller(Role.ADMIN)
    await take(mesh, priced(model, "1"))
    for _ in range(3):
        await anna.spend(model=model, input_tokens=10, output_tokens=5)
    await anna.spend()
    await take(mesh, priced(model, "3"))
    shown = await anna.call("RepriceEvents", reprice(mesh, apply=False))
    assert [(one.model, one.event_count, one.before_nano_usd, one.after_nano_usd) for one in shown.models] == [
        (model, 3, 45_000, 135_000)
    ]
    assert (await anna.budget()).spent_nano_usd == 49_500
    assert len(await anna.events()) == 4
    done = await anna.call("RepriceEvents", reprice(mesh, note="the price was wrong"))
    assert done == shown
    assert (await anna.budget()).spent_nano_usd == 139_500
    events = await anna.events()
    assert len(events) == 10
    fresh = [event for event in events if event.note]
    assert {event.note for event in fresh} == {"re-priced: the price was wrong"}
    assert (
        sorted((event.reversal, event.cost_nano_usd) for event in fresh)
        == [(False, 45_000)] * 3 + [(True, -15_000)] * 3
    )
    assert len({event.price_digest for event in fresh}) == 2
    assert sum(event.usage.input_tokens for event in fresh) == 0
    summary = await anna.call("GetCostSummary", ledger_pb.GetCostSummaryRequest())
    assert (summary.total_nano_usd, summary.event_count) == (139_500, 4)
    again = await anna.call("RepriceEvents", reprice(mesh))
    assert (again.event_count, len(await anna.events())) == (0, 10)


@pytest.mark.parametrize("named", ["by the price for all", "by its family", "by an alias", "in other letters"])
async def test_charges_follow_whatever_name_their_price_was_found_by(mesh: CostMesh, named: str) -> None:
    anna, family = mesh.caller(Role.ADMIN), a_model()
    provider, model, list_of_before, list_of_now = {
        "by the price for all": ("stub", family, "", priced(family, "1", provider="stub")),
        "by its family": ("openai", f"{family}-2024-07-18", priced(family, "2"), priced(f"{family}-2024-07-18", "1")),
        "by an alias": (
            "openai",
            f"{family}-nick",
            priced(family, "2", aliases=f"{family}-nick"),
            priced(family, "2") + priced(f"{family}-nick", "1").removeprefix(HEAD),
        ),
        "in other letters": ("openai", family.upper(), priced(family, "2"), priced(family.title(), "1")),
    }[named]
    if list_of_before:
        await take(mesh, list_of_before)
    for _ in range(4):
        await anna.spend(provider=provider, model=model, input_tokens=10, output_tokens=0)
    before = (await anna.budget()).spent_nano_usd
    assert before == (80_000 if list_of_before else 0)
    assert (await anna.call("RepriceEvents", reprice(mesh, apply=False))).event_count == 0
    await take(mesh, list_of_now)
    done = await anna.call("RepriceEvents", reprice(mesh))
    assert [(one.provider, one.model, one.event_count) for one in done.models] == [(provider, model, 4)]
    assert (done.before_nano_usd, done.after_nano_usd) == (before, 40_000)
    assert (await anna.budget()).spent_nano_usd == 40_000
    assert (await anna.call("RepriceEvents", reprice(mesh))).event_count == 0


async def test_only_calls_held_within_the_time_are_priced_anew(mesh: CostMesh) -> None:
    model, anna = a_model(), mesh.caller(Role.ADMIN)
    await take(mesh, priced(model, "1"))
    await anna.spend(model=model, input_tokens=10, output_tokens=0)
    mesh.clock.advance(seconds=60)
    between = mesh.clock.now()
    await anna.spend(model=model, input_tokens=10, output_tokens=0)
    await take(mesh, priced(model, "3"))
    end = Timestamp()
    end.FromDatetime(between)
    done = await anna.call("RepriceEvents", reprice(mesh, end_time=end))
    assert (done.event_count, done.after_nano_usd) == (1, 30_000)
    # Written anew now, and still a charge of then.
    await take(mesh, priced(model, "2"))
    again = await anna.call("RepriceEvents", reprice(mesh, end_time=end))
    assert (again.event_count, again.before_nano_usd, again.after_nano_usd) == (1, 30_000, 20_000)
    rest = await anna.call("RepriceEvents", reprice(mesh))
    assert (rest.event_count, rest.before_nano_usd, rest.after_nano_usd) == (1, 10_000, 20_000)


async def test_a_dearer_price_may_overrun_a_budget_and_a_cheaper_one_frees_it(mesh: CostMesh) -> None:
    model, anna = a_model(), mesh.caller(Role.ADMIN)
    await take(mesh, priced(model, "1"))
    await anna.spend(model=model, input_tokens=10, output_tokens=0)
    await anna.limit(15_000)
    await take(mesh, priced(model, "2"))
    await anna.call("RepriceEvents", reprice(mesh))
    assert (await anna.budget()).overrun_nano_usd == 5_000
    await take(mesh, priced(model, "0.5"))
    await anna.call("RepriceEvents", reprice(mesh))
    budget = await anna.budget()
    assert (budget.spent_nano_usd, budget.overrun_nano_usd) == (5_000, 0)


async def test_an_assumed_charge_is_priced_anew_and_still_corrected_by_late_usage(mesh: CostMesh) -> None:
    model, anna = a_model(), mesh.caller(Role.ADMIN)
    await take(mesh, priced(model, "1"))
    hold = await anna.dispatch(await anna.reserve(model=model, input_tokens=100, output_tokens=0))

    async def assumed() -> bool:
        return (await anna.budget()).spent_nano_usd == 100_000

    await mesh.until(assumed, seconds=20)
    await take(mesh, priced(model, "2"))
    done = await anna.call("RepriceEvents", reprice(mesh))
    assert (done.before_nano_usd, done.after_nano_usd) == (100_000, 200_000)
    assert (await anna.budget()).spent_nano_usd == 200_000
    settled = await anna.settle(hold, input_tokens=10)
    assert (settled.state, settled.charged_nano_usd) == (cost_pb2.HOLD_STATE_SETTLED, 20_000)
    assert (await anna.budget()).spent_nano_usd == 20_000
    assert sum(event.cost_nano_usd for event in await anna.events()) == 20_000


async def test_a_repricing_that_broke_off_goes_on_and_answers_for_all_of_it(
    mesh: CostMesh, monkeypatch: pytest.MonkeyPatch, armed: Callable[[str], None]
) -> None:
    monkeypatch.setattr(repricing_store, "AT_ONCE", 2)
    model, anna = a_model(), mesh.caller(Role.ADMIN)
    await take(mesh, priced(model, "1"))
    for _ in range(5):
        await anna.spend(model=model, input_tokens=10, output_tokens=0)
    await take(mesh, priced(model, "3"))
    request = reprice(mesh, request_id=str(uuid4()))
    for times in (1, 2):
        armed(f"{repricing_store.BETWEEN_CHARGES}=error")
        assert (await anna.refused("RepriceEvents", request)).startswith("internal/")
        armed("")
        # What is done is done, and the budget follows it.
        assert (await anna.budget()).spent_nano_usd == 50_000 + times * 2 * 20_000
    done = await anna.call("RepriceEvents", request)
    assert (done.event_count, done.before_nano_usd, done.after_nano_usd) == (5, 50_000, 150_000)
    assert [(one.model, one.event_count) for one in done.models] == [(model, 5)]
    assert await anna.call("RepriceEvents", request) == done
    assert (await anna.budget()).spent_nano_usd == 150_000
    assert sum(event.cost_nano_usd for event in await anna.events()) == 150_000
    changed = reprice(mesh, request_id=request.request_id, note="another")
    assert await anna.refused("RepriceEvents", changed) == "conflict/REQUEST_ID_REUSED"


async def test_calls_spend_between_the_charges_of_a_repricing(mesh: CostMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repricing_store, "AT_ONCE", 1)
    model, anna = a_model(), mesh.caller(Role.ADMIN)
    await take(mesh, priced(model, "1"))
    for _ in range(2):
        await anna.spend(model=model, input_tokens=10, output_tokens=0)
    await take(mesh, priced(model, "3"))
    spent: list[int] = []

    async def spend() -> None:
        # As a neighbour would: the re-pricing stands still meanwhile, and has no lock.
        await anna.spend()
        spent.append((await anna.budget()).spent_nano_usd)

    failpoints_of_code.act_at({repricing_store.BETWEEN_CHARGES: spend})
    try:
        assert (await anna.call("RepriceEvents", reprice(mesh))).event_count == 2
    finally:
        failpoints_of_code.act_at({})
    assert spent == [20_000 + 20_000 + 4_500, 20_000 + 40_000 + 9_000]


async def test_another_tenants_charges_stay(mesh: CostMesh) -> None:
    model, anna = a_model(), mesh.caller(Role.ADMIN)
    await take(mesh, priced(model, "1"))
    await anna.spend(model=model)
    await take(mesh, priced(model, "2"))
    other = mesh.caller(Role.ADMIN, tenant=TenantId(uuid4()))
    assert (await other.call("RepriceEvents", reprice(mesh))).event_count == 0


@pytest.mark.parametrize("seed", range(3))
async def test_budgets_ledger_and_holds_agree_after_any_prices(mesh: CostMesh, seed: int) -> None:
    random, model, anna = Random(seed), a_model(), mesh.caller(Role.ADMIN)
    used: list[int] = []
    dollars = 1
    await take(mesh, priced(model, "1"))
    for _ in range(8):
        if random.random() < 0.5:
            used.append(random.randrange(1, 100))
            await anna.spend(model=model, input_tokens=used[-1], output_tokens=0)
            continue
        dollars = random.randrange(1, 50)
        await take(mesh, priced(model, str(dollars)))
        if random.random() < 0.7:
            await anna.call("RepriceEvents", reprice(mesh))
        spent = (await anna.budget()).spent_nano_usd if used else 0
        assert spent == sum(event.cost_nano_usd for event in await anna.events(page_size=500))
    await anna.call("RepriceEvents", reprice(mesh))
    assert sum(event.cost_nano_usd for event in await anna.events(page_size=500)) == sum(used) * dollars * 1000
    assert usage_pb2.Usage(
        input_tokens=sum(event.usage.input_tokens for event in await anna.events(page_size=500))
    ) == (usage_pb2.Usage(input_tokens=sum(used)))
