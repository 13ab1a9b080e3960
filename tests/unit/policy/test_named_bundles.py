"""Models of a fork are judged by a bundle that is no law; what leaves the mesh is held to the law all the same."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast
from uuid import uuid4

import pytest

from comitia.policy.v1 import policy_pb2
from services.meshkit.batching.threads import Threads
from services.meshkit.content import text_of
from services.meshkit.core.errors import Invalid, MeshError, Unavailable
from services.meshkit.core.identity import Principal, Role, TenantId
from services.meshkit.testing.fake_clock import FakeClock
from services.meshkit.testing.seeded_ids import SeededIds
from services.policy.domain.bundle import Bundle, NamedBundle
from services.policy.domain.errors import BundleNotForCaller
from services.policy.domain.subject import Stage, Subject
from services.policy.domain.verdict import Verdict
from services.policy.domain.violation import Violation
from services.policy.rules.shipped import load_shipped
from services.policy.transport import convert
from services.policy.usecases.evaluate import Evaluate, Question
from services.policy.usecases.laws import Laws
from services.policy.usecases.record_violations import RecordViolations
from tests.support.memory_policy_store import MemoryBundleStore
from tests.support.policy import a_bundle, a_new_bundle, a_subject, an_evaluation
from tests.unit.policy.test_laws import Compiler, NoWakes

TENANT, OTHER = TenantId(uuid4()), TenantId(uuid4())
SHIPPED = load_shipped()


class Here:
    """Threads that are none."""

    async def run(self, work: Callable[[], Any]) -> Any:
        return work()


class HeldStore(MemoryBundleStore):
    """Has whoever reads the bundle `other` wait."""

    held: asyncio.Event | None = None

    async def find(self, tenant: TenantId, name: str, version: str) -> Bundle:
        if name == "other" and self.held is not None:
            await self.held.wait()
        return await super().find(tenant, name, version)


class House:
    """Tenants with bundles."""

    def __init__(self) -> None:
        self.store = HeldStore()
        self.violations: list[Violation] = []
        self.recorded = asyncio.Event()
        clock = FakeClock()
        laws = Laws(store=self.store, shipped=SHIPPED, wakes=NoWakes(), clock=clock, off_loop=Compiler())
        threads, record = cast(Threads, Here()), cast(RecordViolations, self._record)
        self._evaluate = Evaluate(
            laws=laws, record=record, threads=threads, slow_threads=threads, clock=clock, ids=SeededIds(1)
        )

    async def stored(self, name: str, *, law: bool = False, **rule: str) -> NamedBundle:
        new = a_new_bundle(name=name, source=a_bundle(name=name, **rule))
        bundle = await self.store.add(TENANT, new, activate=law, most=9)
        return NamedBundle(name=name, version="1.0.0", digest=bundle.digest)

    async def asked(self, text: str, bundle: NamedBundle, *, stage: Stage, tenant: TenantId) -> Verdict | MeshError:
        [_, answer, _] = await self.frame(text, bundle, stage=stage, tenant=tenant)
        return answer

    async def frame(
        self,
        text: str,
        bundle: NamedBundle,
        *,
        beside: str = "beside it",
        stage: Stage = Stage.AFTER,
        tenant: TenantId = TENANT,
    ) -> Sequence[Verdict | MeshError]:
        question = Question(tenant=tenant, subject=a_subject(text, stage=stage), bundle=bundle)
        other = Question(tenant=tenant, subject=a_subject(beside))
        return await self._evaluate.many([other, question, other])

    async def judged(self, text: str, bundle: NamedBundle, *, stage: Stage = Stage.BEFORE) -> Verdict:
        answer = await self.asked(text, bundle, stage=stage, tenant=TENANT)
        assert isinstance(answer, Verdict)
        return answer

    async def refusal(self, bundle: NamedBundle, *, tenant: TenantId = TENANT) -> str:
        answer = await self.asked("x", bundle, stage=Stage.AFTER, tenant=tenant)
        assert isinstance(answer, MeshError)
        return answer.reason

    async def _record(self, violations: Sequence[Violation], _subject: Subject) -> None:
        self.violations += violations
        self.recorded.set()


@pytest.fixture
def house() -> House:
    return House()


async def test_an_answer_is_judged_by_the_bundle_that_is_named_and_by_no_other(house: House) -> None:
    await house.stored("house", law=True, keyword="forbidden")
    named = await house.stored("other", keyword="wanted")
    stops = await house.judged("wanted", named, stage=Stage.AFTER)
    assert (stops.judgement.allowed, stops.bundle, stops.bundle_digest) == (False, "other@1.0.0", named.digest)
    assert (await house.judged("forbidden", named, stage=Stage.AFTER)).judgement.allowed
    assert [violation.bundle for violation in house.violations] == ["other@1.0.0"]


async def test_what_leaves_the_mesh_is_held_to_the_law_as_well(house: House) -> None:
    await house.stored("house", law=True, keyword="forbidden")
    named = await house.stored("other", keyword="wanted")
    lawful = await house.judged("forbidden", named)
    assert (lawful.judgement.allowed, lawful.bundle) == (False, "house@1.0.0")
    assert (await house.judged("wanted", named)).bundle == "other@1.0.0"
    passed = await house.judged("hello", named)
    assert (passed.judgement.allowed, passed.bundle) == (True, "other@1.0.0")
    assert [violation.bundle for violation in house.violations] == ["house@1.0.0", "other@1.0.0"]


async def test_what_the_law_redacts_stays_redacted(house: House) -> None:
    await house.stored("house", law=True, keyword="forbidden", action="redact")
    passes, redacts = await house.stored("passes"), await house.stored("redacts", keyword="wanted", action="redact")
    mark = "[redacted:no_canary]"
    for named, text in ((passes, f"{mark} wanted"), (redacts, f"{mark} {mark}")):
        verdict = await house.judged("forbidden wanted", named)
        assert verdict.judgement.parts is not None
        assert text_of(verdict.judgement.parts) == text
        assert len(verdict.judgement.results) == 2


async def test_a_bundle_is_the_tenants_own_or_one_that_ships(house: House) -> None:
    named = await house.stored("other", keyword="wanted")
    assert await house.refusal(named, tenant=OTHER) == "BUNDLE_NOT_FOUND"
    ground = SHIPPED.default.bundle
    shipped = NamedBundle(name=ground.name, version=ground.version, digest=ground.digest)
    assert (await house.judged("hello", shipped)).bundle == ground.reference


async def test_a_bundle_with_other_rules_judges_nothing(house: House) -> None:
    await house.stored("other", keyword="wanted")
    assert await house.refusal(NamedBundle(name="other", version="1.0.0", digest="00" * 32)) == "BUNDLE_DIFFERS"


async def test_others_of_a_frame_are_judged_and_recorded_while_a_bundle_is_read(house: House) -> None:
    await house.stored("house", law=True, keyword="forbidden")
    house.store.held = asyncio.Event()
    named = await house.stored("other", keyword="wanted")
    frame = asyncio.create_task(house.frame("wanted", named, beside="forbidden"))
    async with asyncio.timeout(5):
        await house.recorded.wait()
    assert {violation.bundle for violation in house.violations} == {"house@1.0.0"}
    assert not frame.done()
    house.store.held.set()
    assert [isinstance(answer, Verdict) and answer.bundle for answer in await frame] == [
        "house@1.0.0",
        "other@1.0.0",
        "house@1.0.0",
    ]


async def test_nothing_is_judged_while_a_bundle_cannot_be_read(house: House) -> None:
    named = await house.stored("other", keyword="wanted")
    for _ in ("the law", "the bundle"):
        house.store.faults.next(Unavailable("postgres"))
    assert await house.refusal(named) == "UNAVAILABLE"


def a_reader(*roles: Role, scopes: frozenset[str] | None = None) -> Principal:
    return Principal(tenant=TENANT, subject="user_1", roles=frozenset(roles), scopes=scopes, run_id="run_1")


def test_the_bundle_is_read_for_whoever_may_write_policies_and_for_nobody_else() -> None:
    subject = an_evaluation().subject
    subject.context.bundle, subject.context.bundle_digest = "other@1.0.0", "ab"
    question = convert.to_question(subject, a_reader(Role.ADMIN), inside=True)
    assert question.bundle == NamedBundle(name="other", version="1.0.0", digest="ab")
    for reader in (a_reader(Role.TENANT_USER), a_reader(Role.ADMIN, scopes=frozenset({"runs.start"}))):
        with pytest.raises(BundleNotForCaller):
            convert.to_question(subject, reader, inside=True)
    with pytest.raises(Invalid):
        convert.to_question(subject, a_reader(Role.ADMIN))
    subject.operation = policy_pb2.OPERATION_INVOKE_TOOL
    with pytest.raises(Invalid):
        convert.to_question(subject, a_reader(Role.ADMIN), inside=True)
