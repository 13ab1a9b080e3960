"""Holds of calls that ended long ago go; what they came to stays."""

from datetime import timedelta
from uuid import uuid4

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from comitia.cost.v1 import budget_service_pb2 as budget_pb
from comitia.cost.v1 import cost_pb2, price_list_pb2
from comitia.cost.v1 import ledger_service_pb2 as ledger_pb
from comitia.cost.v1 import pricing_service_pb2 as pricing_pb
from services.cost.storage.hold_retention import HoldRetention
from services.cost.usecases.forget_holds import ForgetHolds
from services.meshkit.core.identity import Role
from services.meshkit.sql.engine import sql_engine
from tests.integration.cost.conftest import CostMesh, StartCost
from tests.integration.cost.test_pricing import a_model, priced, take

pytestmark = pytest.mark.asyncio(loop_scope="module")
DAYS = 30


async def forget(mesh: CostMesh, *, keep_days: int = DAYS) -> int:
    async with sql_engine(mesh.urls.maintenance, pool_size=1) as engine:
        return await ForgetHolds(holds=HoldRetention(engine), clock=mesh.clock, keep_days=keep_days).once()


def since(mesh: CostMesh, *, days: int, unpriced: bool = False, apply: bool = False) -> ledger_pb.RepriceEventsRequest:
    start = Timestamp()
    start.FromDatetime(mesh.clock.now() - timedelta(days=days))
    return ledger_pb.RepriceEventsRequest(start_time=start, unpriced=unpriced, apply=apply)


async def test_ended_holds_go_when_they_are_old_and_what_they_came_to_stays(start_cost: StartCost) -> None:
    async with start_cost(hold_days=0) as mesh:
        anna = mesh.caller(Role.ADMIN)
        settled = await anna.spend(request_id=(first := str(uuid4())))
        released = await anna.release(await anna.reserve())
        assumed = await anna.dispatch(await anna.reserve(input_tokens=100, output_tokens=0))

        async def expired() -> bool:
            return len(await anna.events()) == 2

        await mesh.until(expired, seconds=30)
        mesh.clock.advance(seconds=timedelta(days=DAYS - 1).total_seconds())
        assert await forget(mesh) == 0
        anna = mesh.caller(Role.ADMIN)
        assert (await anna.reserve(request_id=first)).hold_id == settled.hold_id
        mesh.clock.advance(seconds=timedelta(days=2).total_seconds())
        anna = mesh.caller(Role.ADMIN)
        kept, spent = await anna.reserve(), (await anna.budget()).spent_nano_usd
        assert (await anna.call("RepriceEvents", since(mesh, days=60))).event_count == 0
        assert await forget(mesh) == 3
        assert await forget(mesh) == 0
        for gone in (settled, released, assumed):
            request = budget_pb.ReleaseRequest(hold_id=gone.hold_id)
            assert await anna.refused("Release", request) == "not_found/HOLD_NOT_FOUND"
        budget = await anna.budget()
        assert (budget.spent_nano_usd, budget.held_nano_usd) == (spent, kept.amount_nano_usd)
        assert sum(event.cost_nano_usd for event in await anna.events()) == spent
        assert (await anna.settle(await anna.dispatch(kept), input_tokens=1)).hold_id == kept.hold_id
        # What is known no more is not said to be right.
        assert await anna.refused("RepriceEvents", since(mesh, days=60)) == "invalid/INVALID_FIELD"
        assert (await anna.call("RepriceEvents", since(mesh, days=DAYS - 1))).event_count == 0
        assert (await anna.reserve(request_id=first)).hold_id != settled.hold_id


async def test_charges_without_a_price_stay_until_they_are_priced(start_cost: StartCost) -> None:
    async with start_cost(hold_days=0) as mesh:
        anna, model = mesh.caller(Role.ADMIN), a_model()
        await anna.call(
            "SetUnknownPrice", pricing_pb.SetUnknownPriceRequest(rule=price_list_pb2.UNKNOWN_PRICE_RULE_FLAG)
        )
        await anna.spend(model=model, input_tokens=10, output_tokens=0)
        await anna.release(await anna.reserve(model=model))
        await anna.spend()
        mesh.clock.advance(seconds=timedelta(days=DAYS + 1).total_seconds())
        # What was released has no charge to price.
        assert await forget(mesh) == 2
        await take(mesh, priced(model, "2"))
        anna, before = mesh.caller(Role.ADMIN), (await mesh.caller().budget()).spent_nano_usd
        assert await anna.refused("RepriceEvents", since(mesh, days=60)) == "invalid/INVALID_FIELD"
        assert (await anna.call("RepriceEvents", since(mesh, days=60, unpriced=True))).event_count == 1
        done = await anna.call("RepriceEvents", since(mesh, days=60, unpriced=True, apply=True))
        assert (done.event_count, done.after_nano_usd) == (1, 10 * 2000)
        assert (await anna.budget()).spent_nano_usd == before - done.before_nano_usd + done.after_nano_usd
        assert await forget(mesh) == 1


async def test_only_charges_without_a_price_are_priced_anew_when_asked_so(start_cost: StartCost) -> None:
    async with start_cost(hold_days=0) as mesh:
        anna, model, dear = mesh.caller(Role.ADMIN), a_model(), a_model()
        await take(mesh, priced(dear, "2"))
        await anna.call(
            "SetUnknownPrice", pricing_pb.SetUnknownPriceRequest(rule=price_list_pb2.UNKNOWN_PRICE_RULE_FLAG)
        )
        for name in (model, dear):
            await anna.spend(model=name, input_tokens=10, output_tokens=0)
        await take(mesh, priced(model, "2"))
        await take(mesh, priced(dear, "1"))
        done = await anna.call("RepriceEvents", since(mesh, days=2, unpriced=True))
        assert [one.model for one in done.models] == [model]
        assert (await anna.call("RepriceEvents", since(mesh, days=2))).event_count == 2


async def test_a_period_that_is_taken_off_counts_all_that_can_still_be_told(start_cost: StartCost) -> None:
    async with start_cost(hold_days=0) as mesh:
        month = budget_pb.SetBudgetRequest(scope=cost_pb2.BUDGET_SCOPE_TENANT, period=cost_pb2.BUDGET_PERIOD_MONTH)
        anna = mesh.caller(Role.ADMIN)
        await anna.spend()
        await anna.call("SetBudget", month)
        for _ in range(2):
            mesh.clock.advance(seconds=timedelta(days=DAYS + 1).total_seconds())
            anna = mesh.caller(Role.ADMIN)
            await anna.spend()
        assert await forget(mesh) == 2
        assert (await anna.budget()).spent_nano_usd == 4500
        await mesh.caller().spend()
        endless = budget_pb.SetBudgetRequest(
            scope=cost_pb2.BUDGET_SCOPE_TENANT, update_mask=FieldMask(paths=["period"])
        )
        assert (await anna.call("SetBudget", endless)).budget.spent_nano_usd == 2 * 4500


async def test_holds_that_are_not_over_stay_however_old(start_cost: StartCost) -> None:
    async with start_cost(hold_days=0, sweep_seconds=60) as mesh:
        anna = mesh.caller(Role.ADMIN)
        await anna.dispatch(await anna.reserve())
        mesh.clock.advance(seconds=30)
        async with sql_engine(mesh.urls.maintenance, pool_size=1) as engine:
            assert await HoldRetention(engine).forget(mesh.clock.now() + timedelta(days=1), most=1) == 0
        assert (await anna.call("RepriceEvents", since(mesh, days=60))).event_count == 0


async def test_many_go_batch_by_batch(start_cost: StartCost) -> None:
    async with start_cost(hold_days=0) as mesh:
        anna = mesh.caller()
        for _ in range(5):
            await anna.spend()
        open_one = await anna.reserve()
        mesh.clock.advance(seconds=10)
        cut = mesh.clock.now()
        await anna.spend()
        async with sql_engine(mesh.urls.maintenance, pool_size=1) as engine:
            assert await HoldRetention(engine).forget(cut, most=2) == 5
        assert (await anna.release(open_one)).hold_id == open_one.hold_id


async def test_the_service_removes_them_itself(start_cost: StartCost) -> None:
    async with start_cost(hold_days=1) as mesh:
        hold = await mesh.caller().spend()

        async def gone() -> bool:
            mesh.clock.advance(seconds=timedelta(days=1).total_seconds())
            request = budget_pb.ReleaseRequest(hold_id=hold.hold_id)
            return await mesh.caller().refused("Release", request) == "not_found/HOLD_NOT_FOUND"

        await mesh.until(gone, seconds=30)


async def test_who_keeps_them_for_ever_removes_none(start_cost: StartCost) -> None:
    async with start_cost(hold_days=0) as mesh:
        hold = await mesh.caller().spend()
        mesh.clock.advance(seconds=3600)
        async with sql_engine(mesh.urls.maintenance, pool_size=1) as engine:
            await ForgetHolds(holds=HoldRetention(engine), clock=mesh.clock, keep_days=0)()
        request = budget_pb.ReleaseRequest(hold_id=hold.hold_id)
        assert await mesh.caller().refused("Release", request) == "precondition/HOLD_ALREADY_SETTLED"
