"""Provider batches from the wire to the provider: law, money, answers and ends, in both dialects."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from google.protobuf.struct_pb2 import Struct
from prometheus_client import REGISTRY
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from comitia.cost.v1 import cost_pb2, price_list_pb2, pricing_service_pb2
from comitia.cost.v1.pricing_service_pb2_grpc import PricingServiceStub
from comitia.inference.v1 import generation_pb2, model_batch_pb2, model_pb2, model_service_pb2
from comitia.inference.v1 import inference_service_pb2 as inference_pb
from comitia.inference.v1 import model_batch_service_pb2 as pb
from comitia.inference.v1.model_batch_service_pb2_grpc import ModelBatchServiceStub
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import Principal, Role, TenantId
from services.meshkit.core.ids import to_uuid
from services.meshkit.grpc.channel import call_metadata
from services.meshkit.grpc.errors import remote_errors
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.scope import maintenance_scope
from tests.integration.inference.conftest import InferenceMesh, StartInference, Surroundings, a_message
from tests.support.fake_grants import FakeGrants, fake_grants
from tests.support.providers.fake import KEY, Behaviour

pytestmark = pytest.mark.asyncio(loop_scope="module")

Batch = model_batch_pb2.ModelBatch
STATE = model_batch_pb2.ModelBatchState
ITEM = model_batch_pb2.ModelBatchItemState
DIALECTS = {"openai": "openai/gpt-4o-mini", "anthropic": "anthropic/claude-haiku-4-5"}


class Patient:
    """A caller of ModelBatchService."""

    def __init__(self, mesh: InferenceMesh, grants: FakeGrants) -> None:
        self.mesh = mesh
        self.grants = grants
        self._stub: Any = ModelBatchServiceStub(mesh.channel)

    async def call(self, method: str, request: Any, principal: Principal | None = None) -> Any:
        with remote_errors():
            return await getattr(self._stub, method)(
                request, metadata=call_metadata(principal or self.mesh.principal), timeout=20
            )

    async def refused(self, method: str, request: Any, principal: Principal | None = None) -> str:
        with pytest.raises(MeshError) as refused:
            await self.call(method, request, principal)
        error = refused.value
        return "/".join(part for part in (error.kind.value, error.reason, error.field) if part)

    async def submit(self, *texts: str, model: str = DIALECTS["openai"], **changes: Any) -> Batch:
        return (await self.call("CreateModelBatch", a_batch(*texts, model=model, **changes))).batch

    async def get(self, batch: Batch) -> Batch:
        return (await self.call("GetModelBatch", pb.GetModelBatchRequest(batch_id=batch.batch_id))).batch

    async def until(self, batch: Batch, *states: Any) -> Batch:
        async with asyncio.timeout(15):
            while (found := await self.get(batch)).state not in states:  # noqa: ASYNC110  # it moves in the background
                await asyncio.sleep(0.02)
        return found

    async def ended(self, batch: Batch) -> Batch:
        return await self.until(
            batch,
            STATE.Value("MODEL_BATCH_STATE_ENDED"),
            STATE.Value("MODEL_BATCH_STATE_CANCELLED"),
            STATE.Value("MODEL_BATCH_STATE_LOST"),
        )

    async def results(self, batch: Batch, **changes: Any) -> dict[str, Any]:
        request = pb.ListModelBatchResultsRequest(batch_id=batch.batch_id, **changes)
        return {one.item_id: one for one in (await self.call("ListModelBatchResults", request)).results}


def an_item(name: str, text: str = "Should cities ban cars?", **changes: Any) -> pb.CreateModelBatchRequest.Item:
    values: dict[str, Any] = {"messages": [a_message(text)], "max_output_tokens": 64, **changes}
    generate = inference_pb.GenerateRequest(**values)
    return pb.CreateModelBatchRequest.Item(item_id=name, generate=generate)


def a_batch(*texts: str, **changes: Any) -> pb.CreateModelBatchRequest:
    items = [an_item(f"item-{number}", text) for number, text in enumerate(texts or ("Should cities ban cars?",))]
    values: dict[str, Any] = {"items": items, **changes}
    return pb.CreateModelBatchRequest(**values)


def name_of(state: int) -> str:
    return STATE.Name(state).removeprefix("MODEL_BATCH_STATE_").lower()  # type: ignore[arg-type]


def item_state(result: Any) -> str:
    return ITEM.Name(result.state).removeprefix("MODEL_BATCH_ITEM_STATE_").lower()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def grants(surroundings: Surroundings) -> AsyncIterator[FakeGrants]:
    async with fake_grants(surroundings.keys) as running:
        yield running


Start = Callable[..., AbstractAsyncContextManager[InferenceMesh]]


def batching(start: Start, surroundings: Surroundings, grants: FakeGrants, **changes: Any) -> Any:
    return start(
        gateway_target=grants.target,
        batch_poll_seconds=0.05,
        anthropic_api_key=SecretStr(KEY),
        anthropic_base_url=surroundings.provider.anthropic_base_url,
        private_endpoints=True,
        **changes,
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(surroundings: Surroundings, grants: FakeGrants) -> AsyncIterator[InferenceMesh]:
    # One of the two has a price of its own in batches.
    head = "provider,model,start_time,input_usd_per_million,output_usd_per_million"
    prices: Any = PricingServiceStub(surroundings.money.outside)
    await prices.ImportPrices(
        pricing_service_pb2.ImportPricesRequest(
            content=f"{head}\nanthropic,claude-haiku-4-5:batch,2026-01-01,0.5,2.5\n",
            format=price_list_pb2.PRICE_LIST_FORMAT_CSV,
            source="a test",
            apply=True,
        ),
        metadata=call_metadata(surroundings.keys.principal(Role.OPERATOR)),
    )
    async with batching(surroundings.start, surroundings, grants) as mesh:
        yield mesh


@pytest.fixture
def patient(running: InferenceMesh, fresh: Principal, grants: FakeGrants) -> Patient:
    return Patient(running.speaking_as(fresh), grants)


async def held(patient: Patient) -> cost_pb2.Budget:
    return await patient.mesh.budget()


def counted(metric: str, state: str) -> float:
    return REGISTRY.get_sample_value(f"comitia_model_{metric}_total", {"state": state}) or 0.0


async def books_equal_the_meter(patient: Patient) -> None:
    """Looks whether what was charged is what the provider metered, and nothing is held any more."""
    charges = await patient.mesh.charges()
    meter = patient.mesh.provider.meter
    confirmed = sorted((call.hold_id, call.prompt_tokens, call.completion_tokens) for call in meter.confirmed)
    charged = sorted(
        (one.hold_id, one.usage.input_tokens, one.usage.output_tokens) for one in charges if not one.assumed
    )
    assert charged == confirmed
    assert meter.unheld == []


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_batch_is_answered_judged_and_paid_for_by_item(patient: Patient, dialect: str) -> None:
    patient.mesh.provider.next(Behaviour(text="Trams!", match=("trams",)))
    before = {state: counted("batches", state) for state in ("accepted", "held", "submitting", "running", "ended")}
    answered = counted("batch_items", "answered")
    made = await patient.submit("cars?", "trams?", model=DIALECTS[dialect])
    assert made.batch_id.startswith("batch_")
    assert name_of(made.state) == "accepted"
    batch = await patient.ended(made)
    assert (name_of(batch.state), batch.answered_count, batch.provider) == ("ended", 2, dialect)
    assert {state: counted("batches", state) for state in before} == {state: was + 1 for state, was in before.items()}
    assert counted("batch_items", "answered") == answered + 2
    results = await patient.results(batch)
    assert [item_state(one) for one in results.values()] == ["answered", "answered"]
    answer = results["item-1"].generation
    assert answer.parts[0].text.text == "Trams!"
    assert "model:" in str(answer.parts[0].label.sources)
    assert "user:anna" in answer.parts[0].label.sources
    assert len(answer.verdict_ids) == 2
    assert answer.cost_nano_usd > 0
    assert answer.hold_id == results["item-1"].hold_id
    assert patient.mesh.law.stages() == ["before", "before", "after", "after"]
    budget = await held(patient)
    assert budget.held_nano_usd == 0
    assert budget.spent_nano_usd == sum(one.generation.cost_nano_usd for one in results.values())
    await books_equal_the_meter(patient)


async def test_a_batch_that_another_release_wrote_is_shown_as_unreadable_and_hides_no_other(patient: Patient) -> None:
    odd, fine = [await patient.ended(await patient.submit(text)) for text in ("one?", "two?")]
    about = {"tenant": patient.mesh.principal.tenant, "batch": to_uuid(odd.batch_id, "batch")}
    tables = {"model_batch": "ended", "model_batch_item": "answered"}
    checks: dict[str, str] = {}
    async with sql_engine(patient.mesh.urls.migrator, pool_size=1) as owner:
        async with owner.begin() as connection:
            for table in tables:
                checks[table] = (await connection.execute(_CHECK, {"name": f"ck_{table}_state"})).scalar_one()
                await connection.execute(text(f"ALTER TABLE {table} DROP CONSTRAINT ck_{table}_state"))
            ended = (await connection.execute(_CHECK, {"name": "ck_model_batch_ended"})).scalar_one()
            await connection.execute(text("ALTER TABLE model_batch DROP CONSTRAINT ck_model_batch_ended"))
            await _write_states(connection, dict.fromkeys(tables, "of_tomorrow"), about)
        try:
            listed = (await patient.call("ListModelBatches", pb.ListModelBatchesRequest())).batches
            assert {one.batch_id: name_of(one.state) for one in listed} == {
                odd.batch_id: "unreadable",
                fine.batch_id: "ended",
            }
            assert name_of((await patient.get(odd)).state) == "unreadable"
            (result,) = (await patient.results(odd)).values()
            assert (item_state(result), result.HasField("generation")) == ("unreadable", False)
            cancel = pb.CancelModelBatchRequest(batch_id=odd.batch_id)
            assert await patient.refused("CancelModelBatch", cancel) == "precondition/BATCH_ENDED"
        finally:
            async with owner.begin() as connection:
                await _write_states(connection, tables, about)
                for table, check in checks.items():
                    await connection.execute(text(f"ALTER TABLE {table} ADD CONSTRAINT ck_{table}_state {check}"))
                await connection.execute(text(f"ALTER TABLE model_batch ADD CONSTRAINT ck_model_batch_ended {ended}"))


_CHECK = text("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = :name")


async def _write_states(connection: AsyncConnection, states: dict[str, str], about: dict[str, Any]) -> None:
    """Writes where a batch and its items are, as another release would."""
    for table, state in states.items():
        await connection.execute(text(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY"))
        await connection.execute(
            text(f"UPDATE {table} SET state = '{state}' WHERE tenant_id = :tenant AND batch_id = :batch"), about
        )
        await connection.execute(text(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY"))


async def test_what_law_or_money_refuse_never_leaves_and_the_others_do(patient: Patient) -> None:
    patient.mesh.law.blocked = {"forbidden"}
    patient.mesh.law.redacted = {"Anna": "[name]"}
    batch = await patient.ended(await patient.submit("forbidden", "Anna asks"))
    results = await patient.results(batch)
    assert (item_state(results["item-0"]), results["item-0"].reason) == ("failed", "LAW_BLOCKED")
    assert item_state(results["item-1"]) == "answered"
    assert [call.body["messages"][0]["content"] for call in patient.mesh.provider.meter.calls] == ["[name] asks"]
    await books_equal_the_meter(patient)


async def test_an_answer_that_the_law_blocks_is_paid_and_not_shown(patient: Patient) -> None:
    patient.mesh.law.blocked = {"secret"}
    patient.mesh.provider.next(Behaviour(text="a secret"))
    batch = await patient.ended(await patient.submit())
    [result] = (await patient.results(batch)).values()
    assert (item_state(result), result.reason) == ("failed", "LAW_BLOCKED")
    assert not result.HasField("generation")
    await books_equal_the_meter(patient)


async def test_without_money_nothing_leaves(patient: Patient) -> None:
    await patient.mesh.limit(1)
    batch = await patient.ended(await patient.submit("one", "two"))
    assert {one.reason for one in (await patient.results(batch)).values()} == {"BUDGET_EXHAUSTED"}
    assert patient.mesh.provider.batches.submissions == 0
    assert (await held(patient)).held_nano_usd == 0


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_items_fail_alone_and_what_they_cost_is_charged(patient: Patient, dialect: str) -> None:
    patient.mesh.provider.next(Behaviour(status=400, match=("refused",)))
    patient.mesh.provider.next(Behaviour(text="no JSON at all", match=("wants JSON",)))
    form = generation_pb2.OutputFormat(json_object=generation_pb2.JsonObject())
    items = [an_item("bad", "refused"), an_item("form", "wants JSON", output_format=form), an_item("good")]
    batch = await patient.ended(await patient.submit(items=items, model=DIALECTS[dialect]))
    results = await patient.results(batch)
    assert [(item_state(one), one.reason) for one in results.values()] == [
        ("failed", "PROVIDER_REFUSED"),
        ("failed", "OUTPUT_INVALID"),
        ("answered", ""),
    ]
    assert (batch.failed_count, batch.answered_count) == (2, 1)
    assert (await held(patient)).held_nano_usd == 0
    await books_equal_the_meter(patient)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(("rest", "state"), [("expired", "failed"), ("cancelled", "cancelled")])
async def test_what_no_model_was_asked_is_given_back(patient: Patient, dialect: str, rest: str, state: str) -> None:
    patient.mesh.provider.batches.waits = True
    made = await patient.submit("one", "two", "three", model=DIALECTS[dialect])
    await patient.until(made, STATE.Value("MODEL_BATCH_STATE_RUNNING"))
    assert (await held(patient)).held_nano_usd > 0
    patient.mesh.provider.batches.end(answered=1, rest=rest)
    batch = await patient.ended(made)
    results = await patient.results(batch)
    assert [item_state(one) for one in results.values()] == ["answered", state, state]
    assert results["item-2"].reason == f"BATCH_{rest.upper()}"
    assert (await held(patient)).held_nano_usd == 0
    await books_equal_the_meter(patient)


async def test_an_item_of_which_nobody_says_anything_is_unknown_and_stays_held(patient: Patient) -> None:
    patient.mesh.provider.batches.waits = True
    made = await patient.submit("one", "two")
    await patient.until(made, STATE.Value("MODEL_BATCH_STATE_RUNNING"))
    patient.mesh.provider.batches.end(silent=1)
    batch = await patient.ended(made)
    results = await patient.results(batch)
    assert (item_state(results["item-0"]), results["item-0"].reason) == ("unknown", "RESULT_MISSING")
    assert item_state(results["item-1"]) == "answered"
    # Its hold expires into `assumed`.
    assert (await held(patient)).held_nano_usd > 0


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_result_that_cannot_be_read_holds_up_no_other(patient: Patient, dialect: str) -> None:
    batches = patient.mesh.provider.batches
    batches.waits = True
    made = await patient.submit("one", "two", model=DIALECTS[dialect])
    await patient.until(made, STATE.Value("MODEL_BATCH_STATE_RUNNING"))
    ours = batches.all[-1]
    ours.torn = {ours.calls[0].hold_id}
    batches.end()
    async with asyncio.timeout(15):
        while item_state((await patient.results(made))["item-1"]) != "answered":  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.02)
    assert item_state((await patient.results(made))["item-0"]) == "sent"
    ours.torn.clear()
    await patient.ended(made)
    assert {item_state(one) for one in (await patient.results(made)).values()} == {"answered"}
    assert (await held(patient)).held_nano_usd == 0
    await books_equal_the_meter(patient)


async def test_a_usage_that_nobody_reports_leaves_the_hold_to_be_assumed(patient: Patient) -> None:
    patient.mesh.provider.next(Behaviour(usage=False))
    batch = await patient.ended(await patient.submit())
    [result] = (await patient.results(batch)).values()
    assert item_state(result) == "answered"
    assert not result.generation.attempts[0].usage_known
    assert (await held(patient)).held_nano_usd > 0


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_cancelling_stops_the_provider_and_keeps_what_it_answered(patient: Patient, dialect: str) -> None:
    batches = patient.mesh.provider.batches
    batches.waits = True
    made = await patient.submit("one", "two", model=DIALECTS[dialect])
    await patient.until(made, STATE.Value("MODEL_BATCH_STATE_RUNNING"))
    cancel = pb.CancelModelBatchRequest(batch_id=made.batch_id)
    assert (await patient.call("CancelModelBatch", cancel)).batch.cancel_requested
    await patient.until(made, STATE.Value("MODEL_BATCH_STATE_CANCELLING"))
    assert (await patient.call("CancelModelBatch", cancel)).batch.cancel_requested
    assert batches.all[-1].cancelled
    batches.end(answered=1, rest="cancelled")
    batch = await patient.ended(made)
    assert (name_of(batch.state), batch.answered_count, batch.cancelled_count) == ("cancelled", 1, 1)
    assert await patient.refused("CancelModelBatch", cancel) == "precondition/BATCH_ENDED"
    await books_equal_the_meter(patient)


async def test_a_batch_that_is_cancelled_before_it_leaves_costs_nothing(patient: Patient) -> None:
    batches = patient.mesh.provider.batches
    batches.mishaps.extend(("busy", "busy", "busy"))
    made = await patient.submit("one", "two")
    async with asyncio.timeout(10):
        while (await patient.get(made)).reason != "PROVIDER_RATE_LIMITED":  # noqa: ASYNC110  # as in `until`
            await asyncio.sleep(0.02)
    await patient.call("CancelModelBatch", pb.CancelModelBatchRequest(batch_id=made.batch_id))
    batch = await patient.ended(made)
    assert (name_of(batch.state), batch.cancelled_count) == ("cancelled", 2)
    assert (await held(patient)).held_nano_usd == 0
    assert await patient.mesh.charges() == []
    assert batches.all == []


@pytest.mark.parametrize("mishap", ["taken and broken off", "taken and failed"])
async def test_a_submission_that_breaks_off_is_found_again_and_not_repeated(patient: Patient, mishap: Any) -> None:
    batches = patient.mesh.provider.batches
    batches.mishaps.append(mishap)
    batch = await patient.ended(await patient.submit("one", "two"))
    assert (name_of(batch.state), batch.answered_count) == ("ended", 2)
    assert batches.submissions == 1
    await books_equal_the_meter(patient)


async def test_a_batch_that_shows_no_name_is_found_by_its_holds(patient: Patient) -> None:
    batches = patient.mesh.provider.batches
    # Another one of as many items, which is not meant.
    await patient.ended(await patient.submit("one", "two", model=DIALECTS["anthropic"]))
    batches.mishaps.append("taken and broken off")
    batch = await patient.ended(await patient.submit("three", "four", model=DIALECTS["anthropic"]))
    assert (name_of(batch.state), batch.provider_batch_id) == ("ended", batches.all[-1].id)
    assert batches.submissions == 2
    await books_equal_the_meter(patient)


async def test_a_batch_that_the_provider_refuses_costs_nothing(patient: Patient) -> None:
    patient.mesh.provider.batches.mishaps.append("refused")
    batch = await patient.ended(await patient.submit("one", "two"))
    assert (batch.failed_count, batch.reason) == (2, "PROVIDER_REFUSED")
    assert (await held(patient)).held_nano_usd == 0
    patient.mesh.provider.batches.waits = True
    made = await patient.submit("one", "two")
    await patient.until(made, STATE.Value("MODEL_BATCH_STATE_RUNNING"))
    patient.mesh.provider.batches.refuse()
    assert (await patient.ended(made)).failed_count == 2
    assert (await held(patient)).held_nano_usd == 0
    assert await patient.mesh.charges() == []


async def test_a_batch_whose_caller_is_gone_is_stopped_and_shows_nothing_more(patient: Patient) -> None:
    batches = patient.mesh.provider.batches
    batches.waits = True
    made = await patient.submit("one", "two")
    await patient.until(made, STATE.Value("MODEL_BATCH_STATE_RUNNING"))
    patient.grants.revoke_all()
    batch = await patient.ended(made)
    assert (name_of(batch.state), batch.reason, batch.unknown_count) == ("lost", "GRANT_INVALID", 2)
    assert batches.all[-1].cancelled


async def test_cost_and_law_that_are_away_only_take_time(patient: Patient) -> None:
    patient.mesh.provider.batches.waits = True
    made = await patient.submit("one")
    await patient.until(made, STATE.Value("MODEL_BATCH_STATE_RUNNING"))
    patient.mesh.law.faults.next(RuntimeError("away"))
    patient.mesh.provider.batches.end()
    batch = await patient.ended(made)
    assert batch.answered_count == 1
    await books_equal_the_meter(patient)


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"items": []}, "invalid/INVALID_FIELD/items"),
        ({"items": [an_item("a"), an_item("a")]}, "invalid/INVALID_FIELD/items[1].item_id"),
        ({"items": [an_item("a b")]}, "invalid/INVALID_FIELD/items[0].item_id"),
        ({"items": [an_item(f"i{number}") for number in range(1001)]}, "invalid/INVALID_FIELD/items"),
        ({"items": [an_item("a", model="gpt-4")]}, "invalid/INVALID_FIELD/items[0].generate.model"),
        ({"items": [an_item("a", messages=[])]}, "invalid/INVALID_FIELD/items[0].generate.messages"),
        ({"model": "nobody/knows"}, "not_found/MODEL_NOT_FOUND"),
        ({"model": "stub"}, "precondition/PATIENT_WORK_UNSUPPORTED/model"),
        ({"request_id": "me"}, "invalid/INVALID_FIELD/request_id"),
    ],
)
async def test_bad_batches_are_refused_by_field(patient: Patient, changes: Any, refusal: str) -> None:
    assert await patient.refused("CreateModelBatch", a_batch(**{"model": DIALECTS["openai"], **changes})) == refusal


async def test_what_a_provider_cannot_be_told_is_refused_by_its_field(patient: Patient) -> None:
    item = an_item("a", sampling=generation_pb2.Sampling(top_k=3))
    with pytest.raises(MeshError) as refused:
        await patient.submit(items=[item])
    assert refused.value.reason == "PATIENT_WORK_UNSUPPORTED"
    assert refused.value.metadata["field"] == "items[0].generate.sampling.top_k"
    schema = Struct()
    schema.update({"type": "object", "properties": 7})
    tool = generation_pb2.ToolDefinition(name="search", input_schema=schema)
    refusal = await patient.refused("CreateModelBatch", a_batch(items=[an_item("a", tools=[tool])], model="default"))
    assert refusal.startswith("invalid/INVALID_FIELD/items[0].generate.tools[0].input_schema")


async def test_a_batch_of_another_tenant_or_project_is_not_there(patient: Patient) -> None:
    made = await patient.submit()
    await patient.ended(made)
    keys = patient.mesh.keys
    elsewhere = keys.principal(tenant=TenantId(uuid4()))
    bound = keys.principal(tenant=patient.mesh.principal.tenant, project="else")
    for other in (elsewhere, bound):
        for method, request in (
            ("GetModelBatch", pb.GetModelBatchRequest(batch_id=made.batch_id)),
            ("ListModelBatchResults", pb.ListModelBatchResultsRequest(batch_id=made.batch_id)),
            ("CancelModelBatch", pb.CancelModelBatchRequest(batch_id=made.batch_id)),
        ):
            assert await patient.refused(method, request, other) == "not_found/BATCH_NOT_FOUND"
        assert not (await patient.call("ListModelBatches", pb.ListModelBatchesRequest(), other)).batches
    odd = pb.GetModelBatchRequest(batch_id="batch_me")
    assert await patient.refused("GetModelBatch", odd) == "invalid/INVALID_FIELD/batch_id"


async def test_a_repeat_makes_no_second_batch_and_pages_hold_what_they_may(patient: Patient) -> None:
    request = a_batch("one", "two", "three", model="default", request_id=str(uuid4()))
    first = (await patient.call("CreateModelBatch", request)).batch
    assert (await patient.call("CreateModelBatch", request)).batch.batch_id == first.batch_id
    await patient.ended(first)
    second = await patient.ended(await patient.submit())
    page = await patient.call("ListModelBatches", pb.ListModelBatchesRequest(page_size=1))
    assert [one.batch_id for one in page.batches] == [second.batch_id]
    rest = pb.ListModelBatchesRequest(page_size=1, page_token=page.next_page_token)
    assert [one.batch_id for one in (await patient.call("ListModelBatches", rest)).batches] == [first.batch_id]
    asked = pb.ListModelBatchResultsRequest(batch_id=first.batch_id, page_size=2)
    page = await patient.call("ListModelBatchResults", asked)
    assert [one.item_id for one in page.results] == ["item-0", "item-1"]
    asked.page_token = page.next_page_token
    page = await patient.call("ListModelBatchResults", asked)
    assert ([one.item_id for one in page.results], page.next_page_token) == (["item-2"], "")


async def test_two_replicas_carry_each_batch_on_once(
    patient: Patient, start: StartInference, surroundings: Surroundings, grants: FakeGrants
) -> None:
    async with batching(start, surroundings, grants):
        made = [await patient.submit("one", "two") for _ in range(6)]
        ended = [await patient.ended(one) for one in made]
    assert [name_of(one.state) for one in ended] == ["ended"] * 6
    assert patient.mesh.provider.batches.submissions == 6
    await books_equal_the_meter(patient)


async def test_an_answer_that_comes_after_its_hold_has_ended_corrects_what_was_assumed(patient: Patient) -> None:
    patient.mesh.provider.batches.waits = True
    made = await patient.submit("one")
    await patient.until(made, STATE.Value("MODEL_BATCH_STATE_RUNNING"))
    bound = (await held(patient)).held_nano_usd
    async with sql_engine(patient.mesh.money.url, pool_size=1) as engine, maintenance_scope(engine) as scope:
        [(life,)] = await scope.execute(
            text("SELECT expire_time - created_time FROM hold WHERE tenant_id = :tenant"),
            {"tenant": patient.mesh.principal.tenant},
        )
        assert life == timedelta(hours=24)
        await scope.execute(
            text("UPDATE hold SET expire_time = clock_timestamp() WHERE tenant_id = :tenant"),
            {"tenant": patient.mesh.principal.tenant},
        )
        await scope.commit()
    async with asyncio.timeout(10):
        while not (charges := await patient.mesh.charges()):  # noqa: ASYNC110  # the sweep of cost finds it
            await asyncio.sleep(0.05)
    assert [(one.assumed, one.cost_nano_usd) for one in charges] == [(True, bound)]
    patient.mesh.provider.batches.end()
    batch = await patient.ended(made)
    [result] = (await patient.results(batch)).values()
    assert 0 < result.generation.cost_nano_usd < bound
    assert (await held(patient)).spent_nano_usd == result.generation.cost_nano_usd


async def test_a_price_for_batches_is_what_they_are_held_and_charged_at(patient: Patient) -> None:
    for model in DIALECTS.values():
        await patient.ended(await patient.submit(model=model))
    charged = {one.model: one for one in await patient.mesh.charges()}
    assert charged.keys() == {"gpt-4o-mini", "claude-haiku-4-5:batch"}
    usage = charged["claude-haiku-4-5:batch"].usage
    # Half a dollar and two and a half for a million tokens.
    assert charged["claude-haiku-4-5:batch"].cost_nano_usd == 500 * usage.input_tokens + 2500 * usage.output_tokens


async def a_tenants_own_model(patient: Patient) -> str:
    """Registers a model at the provider; gives the id of its deployment."""
    version = model_pb2.ModelVersion(
        adapter="openai", model="gpt-4o-mini", base_url=patient.mesh.provider.openai_base_url
    )
    request = model_service_pb2.CreateModelDeploymentRequest(name="acme/writer", version=version, api_key=KEY)
    made = (await patient.mesh.call("CreateModelDeployment", request)).deployment
    check = model_service_pb2.CheckModelVersionRequest(deployment_id=made.deployment_id, version=1)
    await patient.mesh.call("CheckModelVersion", check)
    return made.deployment_id


async def retire(patient: Patient, deployment_id: str) -> None:
    request = model_service_pb2.RetireModelDeploymentRequest(deployment_id=deployment_id)
    await patient.mesh.call("RetireModelDeployment", request)


async def test_a_model_of_the_tenant_answers_batches_with_its_own_key(patient: Patient) -> None:
    await a_tenants_own_model(patient)
    batch = await patient.ended(await patient.submit("one", model="acme/writer"))
    assert (batch.deployment, batch.deployment_version, batch.answered_count) == ("acme/writer", 1, 1)


async def test_a_batch_whose_model_was_retired_ends_all_the_same(patient: Patient) -> None:
    deployment_id = await a_tenants_own_model(patient)
    batches = patient.mesh.provider.batches
    batches.waits = True
    left = await patient.submit("one", model="acme/writer")
    await patient.until(left, STATE.Value("MODEL_BATCH_STATE_RUNNING"))
    batches.mishaps.append("busy")
    waiting = await patient.submit("two", model="acme/writer")
    async with asyncio.timeout(10):
        while (await patient.get(waiting)).reason != "PROVIDER_RATE_LIMITED":  # noqa: ASYNC110  # as in `until`
            await asyncio.sleep(0.02)
    await retire(patient, deployment_id)
    async with sql_engine(patient.mesh.urls.maintenance, pool_size=1) as engine, maintenance_scope(engine) as scope:
        await scope.execute(
            text(
                "UPDATE model_batch SET submitted_time = submitted_time - interval '49 hours',"
                " look_time = clock_timestamp() WHERE tenant_id = :tenant"
            ),
            {"tenant": patient.mesh.principal.tenant},
        )
        await scope.commit()
    assert (await patient.ended(waiting)).reason == "MODEL_NOT_FOUND"
    [failed] = (await patient.results(waiting)).values()
    assert (item_state(failed), failed.reason) == ("failed", "MODEL_NOT_FOUND")
    lost = await patient.ended(left)
    assert (name_of(lost.state), lost.reason, lost.unknown_count) == ("lost", "MODEL_NOT_FOUND", 1)
