"""The batch stream: one frame, many items, each with its own identity and outcome."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from comitia.common.v1.batch_pb2 import IdentityTable, ItemHeader
from comitia.common.v1.usage_pb2 import Usage
from comitia.cost.v1 import budget_service_pb2 as pb
from comitia.cost.v1 import cost_pb2
from services.meshkit.core.identity import Role, TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.grpc.errors import from_status
from tests.integration.cost.conftest import CostCaller, CostMesh
from tests.support.money import a_reserve, a_run_id

pytestmark = pytest.mark.asyncio(loop_scope="module")

OTHER = TenantId(UUID(int=0xBEEF))
BOUND = 100 * 150 + 50 * 600


class Stream:
    """A batch stream that sends a frame and gathers all its answers."""

    def __init__(self, mesh: CostMesh, *callers: CostCaller) -> None:
        self._call = mesh.caller().batch()
        self._tokens = [caller.principal.token.reveal() for caller in callers]
        self._sent = 0

    async def frame(self, *items: tuple[int, Any]) -> list[cost_pb2.Hold | str]:
        """Sends operations, each with the index of its caller; gives a hold or a reason for each, in order."""
        frame = pb.BatchSpendRequest(identities=IdentityTable(access_tokens=self._tokens))
        self._tokens = []
        first = self._sent + 1
        for who, operation in items:
            self._sent += 1
            header = ItemHeader(item_id=self._sent, identity_index=who)
            frame.items.append(pb.BatchSpendRequest.Item(header=header, **{_field(operation): operation}))
        await self._call.write(frame)
        answers: dict[int, cost_pb2.Hold | str] = {}
        while len(answers) < len(items):
            for answer in (await self._call.read()).items:
                failed = answer.status.HasField("error")
                outcome = from_status(answer.status.error).reason if failed else answer.hold
                answers[answer.status.item_id] = outcome
        return [answers[number] for number in range(first, self._sent + 1)]


def _field(operation: Any) -> str:
    return {
        pb.ReserveRequest: "reserve",
        pb.MarkDispatchedRequest: "mark_dispatched",
        pb.SettleRequest: "settle",
        pb.ReleaseRequest: "release",
    }[type(operation)]


async def test_good_and_bad_items_of_two_tenants_share_a_frame_and_fail_alone(mesh: CostMesh) -> None:
    anna, bert = mesh.caller(), mesh.caller(tenant=OTHER)
    hers = await anna.reserve()
    create = pb.CreateBudgetRequest(run_id=a_run_id(), limit_nano_usd=5)
    small = (await mesh.caller(peer="orchestrator").call("CreateBudget", create)).budget.budget_id
    twice = a_reserve()
    stream = Stream(mesh, anna, bert)
    outcomes = await stream.frame(
        (0, a_reserve()),
        (1, a_reserve()),
        (1, pb.MarkDispatchedRequest(hold_id=hers.hold_id)),
        (0, a_reserve(model="gpt-unheard-of")),
        (0, a_reserve(budget_ids=[small])),
        (1, a_reserve(budget_ids=[small])),
        (0, a_reserve(provider="")),
        (0, pb.SettleRequest(hold_id=hers.hold_id, usage=Usage(input_tokens=1))),
        (0, pb.SettleRequest(hold_id=hers.hold_id)),
        (0, pb.MarkDispatchedRequest(hold_id=hers.hold_id)),
        (0, pb.ReleaseRequest(hold_id=from_uuid("hold", uuid4()))),
        (7, a_reserve()),
        (0, twice),
        (0, twice),
    )
    reasons = [outcome if isinstance(outcome, str) else "ok" for outcome in outcomes]
    assert reasons == [
        "ok",
        "ok",
        "HOLD_NOT_FOUND",
        "PRICE_UNKNOWN",
        "BUDGET_EXHAUSTED",
        "BUDGET_NOT_FOUND",
        "INVALID_FIELD",
        "HOLD_NOT_DISPATCHED",
        "INVALID_FIELD",
        "ok",
        "HOLD_NOT_FOUND",
        "TOKEN_MISSING",
        "ok",
        "ok",
    ]
    assert outcomes[-1] == outcomes[-2]
    assert (await anna.budget()).held_nano_usd == 3 * BOUND
    assert (await bert.budget()).held_nano_usd == BOUND


async def test_a_hold_goes_through_its_life_on_one_stream(mesh: CostMesh) -> None:
    anna = mesh.caller()
    stream = Stream(mesh, anna)
    holds = await stream.frame(*((0, a_reserve()) for _ in range(100)))
    names = [hold.hold_id for hold in holds if not isinstance(hold, str)]
    await stream.frame(*((0, pb.MarkDispatchedRequest(hold_id=name)) for name in names))
    used = Usage(input_tokens=10, output_tokens=5)
    settled = await stream.frame(*((0, pb.SettleRequest(hold_id=name, usage=used)) for name in names))
    assert all(not isinstance(hold, str) and hold.charged_nano_usd == 4500 for hold in settled)
    budget = await anna.budget()
    assert (budget.spent_nano_usd, budget.held_nano_usd) == (450_000, 0)
    assert len(await anna.events(page_size=500)) == 100


async def test_a_frame_spends_a_cap_to_its_end_and_refuses_the_rest(mesh: CostMesh) -> None:
    anna = mesh.caller()
    await anna.limit(30 * BOUND)
    outcomes = await Stream(mesh, anna).frame(*((0, a_reserve()) for _ in range(80)))
    assert [outcome if isinstance(outcome, str) else "ok" for outcome in outcomes] == ["ok"] * 30 + [
        "BUDGET_EXHAUSTED"
    ] * 50


async def test_a_token_without_permission_fails_its_items_only(mesh: CostMesh) -> None:
    anna = mesh.caller()
    reader = mesh.caller(Role.AUDITOR)
    outcomes = await Stream(mesh, anna, reader).frame((0, a_reserve()), (1, a_reserve()))
    assert [outcome if isinstance(outcome, str) else "ok" for outcome in outcomes] == ["ok", "PERMISSION_MISSING"]
