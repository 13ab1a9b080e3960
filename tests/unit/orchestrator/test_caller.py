"""How patiently a run's calls are made: what may pass is tried again, what stands is reported."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from random import Random

import pytest
from google.protobuf.message import Message

from comitia.inference.v1 import inference_service_pb2
from comitia.memory.v1 import memory_service_pb2
from comitia.orchestrator.v1 import journal_pb2
from services.meshkit.core.errors import Conflict, Exhausted, MeshError, PermissionDenied, Unavailable
from services.meshkit.core.identity import Principal, TenantId
from services.meshkit.core.secret import Secret
from services.meshkit.guard.errors import TenantSuspended, TokenRevoked
from services.meshkit.testing.mesh_keys import TENANT
from services.orchestrator.clients.run_tokens import MARGIN
from services.orchestrator.domain.errors import StorageFull
from services.orchestrator.engine.outcomes import may_pass
from services.orchestrator.engine.ports import NobodyWaits
from services.orchestrator.engine.run import OwnedRun
from services.orchestrator.worker.caller import Caller
from services.orchestrator.worker.patience import patience_with
from tests.support.sessions import a_start

RUN = OwnedRun(tenant=TENANT, run_id="run_01jd0000000000000000000000", grant_id="grant_x", shard=0)


class BudgetExhausted(Exhausted):
    """As cost says it."""

    reason = "BUDGET_EXHAUSTED"


class CallInProgress(Conflict):
    """As inference says it."""

    reason = "CALL_IN_PROGRESS"


class Slowly:
    """A clock whose waits cost nothing and are noted."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


class Tokens:
    """Implements `RunTokens`."""

    async def principal(self, run: OwnedRun) -> Principal:
        """See `RunTokens.principal`."""
        return Principal(tenant=run.tenant, subject="grant_x", roles=frozenset(), token=Secret("t"))


class Memory:
    """Fails as often as it is told, then answers."""

    def __init__(self, *failures: MeshError) -> None:
        self.failures = list(failures)
        self.requests: list[memory_service_pb2.RecallRequest] = []

    async def recall(
        self, principal: Principal, request: memory_service_pb2.RecallRequest, *, seconds: float
    ) -> memory_service_pb2.RecallResponse:
        """See `Neighbours.recall`."""
        return await self._answer(request)

    async def describe_tools(self, principal: Principal, request: Message, *, seconds: float) -> Message:
        """See `Neighbours.describe_tools`."""
        return await self._answer(memory_service_pb2.RecallRequest())

    async def generate(
        self, principal: Principal, request: inference_service_pb2.StreamGenerateRequest, **_: object
    ) -> Message:
        """See `Neighbours.generate`."""
        return await self._answer(memory_service_pb2.RecallRequest(context=request.context))

    async def _answer(self, request: memory_service_pb2.RecallRequest) -> memory_service_pb2.RecallResponse:
        self.requests.append(request)
        if self.failures:
            raise self.failures.pop(0)
        return memory_service_pb2.RecallResponse(truncated=True)


class Full:
    """Implements `StorageRoom`: there is none, for so many calls."""

    def __init__(self, calls: int) -> None:
        self._calls = calls

    async def check(self, tenant: TenantId) -> None:
        """See `StorageRoom.check`."""
        if self._calls:
            self._calls -= 1
            raise StorageFull(limit=100, used=111)


class Noted:
    """Implements `Outcome`.

    Args:
        again: others may have made the call before.
        tries: after so many that fail the run is driven elsewhere.
    """

    speaker = "Athena@1.0.0"

    def __init__(self, *, again: bool = False, tries: int = 1_000) -> None:
        self.parks: list[str] = []
        self.shown: list[tuple[str, bool]] = []
        self.again = again
        self._tries = tries

    @contextmanager
    def asking(self) -> Generator[None]:
        """See `Outcome.asking`."""
        try:
            yield
        except MeshError as error:
            self._tries -= 1
            if self._tries == 0:
                raise NobodyWaits from error
            raise

    async def delta(self, path: str, text: str, *, restart: bool = False) -> None:
        """See `Outcome.delta`."""
        self.shown.append((text, restart))

    def parked(self, path: str, reason: str, message: str) -> None:
        """See `Outcome.parked`."""
        self.parks.append(reason)

    def resumed(self, path: str) -> None:
        """See `Outcome.resumed`."""


def an_intent(kind: journal_pb2.CallKind.ValueType = journal_pb2.CALL_KIND_RECALL) -> journal_pb2.JournalEntry:
    return journal_pb2.JournalEntry(
        path="rounds/1/Athena", call_intended=journal_pb2.CallIntended(call_index=2, kind=kind)
    )


async def make(
    memory: Memory,
    kind: journal_pb2.CallKind.ValueType = journal_pb2.CALL_KIND_RECALL,
    *,
    bundle: str = "",
    storage: "Full | None" = None,
    noted: Noted | None = None,
) -> tuple[Message, Slowly, Noted]:
    clock, noted, room = Slowly(), noted or Noted(), storage or Full(0)
    caller = Caller(neighbours=memory, sub_runs=None, tokens=Tokens(), storage=room, clock=clock, random=Random(1))  # type: ignore[arg-type]
    started = a_start()
    if bundle:
        started.fork.bundle, started.fork.bundle_digest = bundle, "ab"
    return await caller.make(RUN, started, an_intent(kind), noted), clock, noted


async def test_a_call_carries_its_place_its_budget_and_its_speaker() -> None:
    memory = Memory()
    await make(memory)
    context = memory.requests[0].context
    assert (context.call_id.run_id, context.call_id.path, context.call_id.call_index) == (
        RUN.run_id,
        "rounds/1/Athena",
        2,
    )
    assert (context.agent_name, context.agent_version, len(context.budget_ids)) == ("Athena", "1.0.0", 1)


async def test_a_call_of_a_run_that_a_step_started_names_that_step() -> None:
    memory, started = Memory(), a_start()
    started.parent_steps.append("run_1/nodes/inner")
    room = Full(0)
    caller = Caller(neighbours=memory, sub_runs=None, tokens=Tokens(), storage=room, clock=Slowly(), random=Random(1))  # type: ignore[arg-type]
    await caller.make(RUN, started, an_intent(), Noted())
    assert list(memory.requests[0].context.parent_steps) == ["run_1/nodes/inner"]


async def test_a_call_of_another_attempt_group_is_another_call() -> None:
    memory, intended = Memory(), an_intent(journal_pb2.CALL_KIND_RECALL)
    intended.call_intended.attempt_group = 3
    room = Full(0)
    caller = Caller(neighbours=memory, sub_runs=None, tokens=Tokens(), storage=room, clock=Slowly(), random=Random(1))  # type: ignore[arg-type]
    await caller.make(RUN, a_start(), intended, Noted())
    assert memory.requests[0].context.call_id.attempt_group == 3


async def test_models_of_a_fork_are_judged_by_its_bundle_and_nothing_else_is() -> None:
    kinds = {
        journal_pb2.CALL_KIND_RECALL: ("", ""),
        journal_pb2.CALL_KIND_GENERATE: ("strict@1.0.0", "ab"),
        journal_pb2.CALL_KIND_PLAN: ("strict@1.0.0", "ab"),
    }
    for kind, named in kinds.items():
        memory = Memory()
        await make(memory, kind, bundle="strict@1.0.0")
        context = memory.requests[0].context
        assert (context.bundle, context.bundle_digest) == named


async def test_a_call_that_another_replica_makes_is_asked_for_again_until_its_answer_is_there() -> None:
    being_made = CallInProgress("it is being made", retry_after=timedelta(seconds=1))
    answer, clock, _ = await make(Memory(being_made, being_made))
    assert isinstance(answer, memory_service_pb2.RecallResponse)
    assert clock.waits == [1.0, 1.0]


async def test_what_may_pass_is_tried_again_with_growing_waits() -> None:
    answer, clock, noted = await make(Memory(Unavailable("memory"), Unavailable("memory")))
    assert isinstance(answer, memory_service_pb2.RecallResponse)
    assert len(clock.waits) == 2
    assert not noted.parks, "a recall is given up rather than waited for"


async def test_a_recall_is_given_up_after_three_tries() -> None:
    memory = Memory(*[Unavailable("memory")] * 9)
    with pytest.raises(Unavailable):
        await make(memory)
    assert len(memory.requests) == 3


async def test_a_call_that_must_be_made_parks_the_run_and_goes_on() -> None:
    _, clock, noted = await make(Memory(*[Unavailable("tools")] * 6), journal_pb2.CALL_KIND_DESCRIBE_TOOLS)
    assert noted.parks == ["UNAVAILABLE"] * 4
    assert max(clock.waits) <= 5.0


async def test_a_call_of_a_run_that_is_driven_elsewhere_is_not_tried_again() -> None:
    memory = Memory(*[Unavailable("tools")] * 6)
    with pytest.raises(NobodyWaits):
        await make(memory, journal_pb2.CALL_KIND_DESCRIBE_TOOLS, noted=Noted(tries=3))
    assert len(memory.requests) == 3


@pytest.mark.parametrize(("again", "shown"), [(False, []), (True, [("", True)])])
async def test_text_that_another_may_have_shown_is_void_before_more_comes(
    again: bool, shown: list[tuple[str, bool]]
) -> None:
    _, _, noted = await make(Memory(), journal_pb2.CALL_KIND_GENERATE, noted=Noted(again=again))
    assert noted.shown == shown


async def test_a_suspended_tenants_call_waits_visibly_however_long_and_loses_no_try() -> None:
    memory = Memory(*[TenantSuspended()] * 20, Unavailable("memory"), Unavailable("memory"))
    answer, clock, noted = await make(memory)
    assert isinstance(answer, memory_service_pb2.RecallResponse)
    assert noted.parks == ["TENANT_SUSPENDED"] * 20
    assert max(clock.waits) <= 5.0


async def test_a_run_whose_tenant_stores_too_much_waits_visibly_and_asks_nobody() -> None:
    memory = Memory()
    answer, _, noted = await make(memory, storage=Full(20))
    assert isinstance(answer, memory_service_pb2.RecallResponse)
    assert noted.parks == ["STORAGE_QUOTA_EXCEEDED"] * 20
    assert len(memory.requests) == 1


async def test_a_refusal_is_reported_at_once() -> None:
    memory = Memory(PermissionDenied("no"))
    with pytest.raises(PermissionDenied):
        await make(memory)
    assert len(memory.requests) == 1


def test_a_used_up_budget_does_not_pass_by_waiting() -> None:
    soon = timedelta(seconds=1)
    assert not may_pass(BudgetExhausted("used up", retry_after=soon))
    assert may_pass(Exhausted("slow down", retry_after=soon))
    assert not may_pass(Exhausted("too many"))


def held() -> BudgetExhausted:
    return BudgetExhausted("held by others", retry_after=timedelta(seconds=1), cause="held")


async def test_a_call_whose_money_others_hold_waits_visibly_until_it_is_free() -> None:
    memory = Memory(*[held() for _ in range(5)])
    _, clock, noted = await make(memory, journal_pb2.CALL_KIND_GENERATE)
    assert noted.parks == ["BUDGET_EXHAUSTED"] * 5
    assert len(memory.requests) == 6
    assert min(clock.waits) >= 1.0


async def test_a_call_whose_money_is_spent_meanwhile_fails_at_once() -> None:
    memory = Memory(held(), BudgetExhausted("spent", cause="spent"))
    with pytest.raises(BudgetExhausted) as refusal:
        await make(memory, journal_pb2.CALL_KIND_GENERATE)
    assert (refusal.value.metadata["cause"], len(memory.requests)) == ("spent", 2)


@pytest.mark.parametrize("cause", ["spent", "overrun"])
def test_money_that_is_spent_does_not_come_back_by_itself(cause: str) -> None:
    assert not may_pass(BudgetExhausted("used up", cause=cause))


def test_a_token_outlives_the_longest_call_it_is_used_for() -> None:
    made_by_others = (journal_pb2.CALL_KIND_UNSPECIFIED, journal_pb2.CALL_KIND_STEP)
    kinds = [kind for kind in journal_pb2.CallKind.values() if kind not in made_by_others]
    assert MARGIN.total_seconds() > max(patience_with(kind).seconds for kind in kinds)


class Renewable(Tokens):
    """Gives a new token only when it is told to forget the old one; notes what was given."""

    def __init__(self) -> None:
        self.serial = 0

    async def principal(self, run: OwnedRun) -> Principal:
        """See `RunTokens.principal`."""
        return replace(await super().principal(run), token=Secret(f"token {self.serial}"))

    def forget(self, run: OwnedRun) -> None:
        """See `RunTokens.forget`."""
        self.serial += 1


@pytest.mark.parametrize("refusals", [1, 2])
async def test_a_token_that_was_revoked_is_fetched_anew_once(refusals: int) -> None:
    memory, tokens, clock = Memory(*[TokenRevoked()] * refusals), Renewable(), Slowly()
    caller = Caller(neighbours=memory, sub_runs=None, tokens=tokens, storage=Full(0), clock=clock, random=Random(1))  # type: ignore[arg-type]
    call = caller.make(RUN, a_start(), an_intent(), Noted())
    if refusals == 1:
        assert isinstance(await call, memory_service_pb2.RecallResponse)
    else:
        with pytest.raises(TokenRevoked):
            await call
    assert (tokens.serial, clock.waits) == (1, [])
