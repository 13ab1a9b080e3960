"""Vectors under money, from the cache where they are known."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from services.inference.domain.deployment import Adapter, Deployments, DeploymentVersion, Task, VersionState
from services.inference.domain.errors import (
    Charge,
    LawBlocked,
    ModelBusy,
    ModelNotFound,
    ModelNotReady,
    NoEmbedderConfigured,
    NoModelConfigured,
    ProviderUnavailable,
)
from services.inference.domain.registry import Holdings
from services.inference.domain.vector_cache import VectorCache
from services.inference.usecases.embed import AskedVectors, Embed
from services.inference.usecases.ports import Embedded
from services.inference.usecases.registry import MemoryRegistry
from services.meshkit.calls.ports import Clearance
from services.meshkit.content import Confidentiality, Label, Usage
from services.meshkit.core.errors import DeadlineExceeded, Internal, Invalid, Unavailable
from services.meshkit.core.identity import Principal, TenantId
from services.meshkit.core.secret import Secret
from services.meshkit.testing.fake_clock import FakeClock
from services.meshkit.testing.fault_queue import FaultQueue
from services.meshkit.testing.mesh_keys import TENANT
from tests.support.inference import ANNA, FakeHolds, FakeLaw, a_context
from tests.support.known_tenants import KnownTenants

LOCAL = DeploymentVersion(name="local/mini", adapter=Adapter.LOCAL, model="mini", task=Task.EMBED)
OPENAI = DeploymentVersion(name="openai/embed", adapter=Adapter.OPENAI, model="embed", task=Task.EMBED, region="us")


class FakeEmbedder:
    """Gives vectors that tell texts apart."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.faults = FaultQueue()
        self.gate: asyncio.Event | None = None
        self.reports_usage = True

    async def embed(
        self, deployment: DeploymentVersion, texts: tuple[str, ...], clearance: Clearance, *, seconds: float
    ) -> Embedded:
        self.asked.append(texts)
        if self.gate is not None:
            await self.gate.wait()
        self.faults.hit()
        usage = Usage(input=len(texts)) if self.reports_usage else None
        return Embedded(vectors=tuple((0.0, 1.0 / len(text)) for text in texts), usage=usage)


class OpensOne:
    """Has all versions asked by one."""

    def __init__(self, embedder: FakeEmbedder) -> None:
        self._embedder = embedder

    def embedder(self, version: DeploymentVersion) -> FakeEmbedder:
        return self._embedder


class Room:
    def __init__(self, *deployments: DeploymentVersion, most_calls: int = 4) -> None:
        self.known = KnownTenants()
        self.law, self.holds, self.embedder = FakeLaw(), FakeHolds(), FakeEmbedder()
        self.cache = VectorCache(most_bytes=10_000)
        self.registry = MemoryRegistry(Deployments(deployments), clock=FakeClock())
        self.embed = Embed(
            registry=self.registry,
            models=OpensOne(self.embedder),
            law=self.law,
            holds=self.holds,
            cache=self.cache,
            tenants=self.known,
            clock=FakeClock(),
            most_calls=most_calls,
        )

    async def ask(self, *texts: str, **changes: Any) -> Any:
        values: dict[str, Any] = {
            "principal": ANNA,
            "context": a_context(),
            "model": "default",
            "texts": texts,
            "deadline": 10.0,
        }
        return await self.embed(AskedVectors(**{**values, **changes}))


async def test_each_text_is_made_once_and_paid_for() -> None:
    room = Room(LOCAL)
    made = await room.ask("a", "bb", "a")
    assert made.vectors == ((0.0, 1.0), (0.0, 0.5), (0.0, 1.0))
    assert (made.model, made.usage) == ("mini", Usage(input=2))
    assert room.embedder.asked == [("a", "bb")]
    assert room.holds.states == ["settled"]


async def test_what_is_known_costs_nothing() -> None:
    room = Room(LOCAL)
    await room.ask("a", "bb")
    again = await room.ask("bb", "ccc")
    assert room.embedder.asked[1] == ("ccc",)
    assert again.vectors[0] == (0.0, 0.5)
    assert (await room.ask("a")).usage == Usage()
    assert len(room.holds.holds) == 2


async def test_another_tenant_finds_nothing_in_the_cache() -> None:
    room = Room(LOCAL)
    await room.ask("a")
    bert = Principal(tenant=TenantId(uuid4()), subject="key_bert", roles=frozenset(), token=Secret("t"))
    await room.ask("a", principal=bert)
    assert len(room.embedder.asked) == 2


async def test_only_what_leaves_the_mesh_is_judged() -> None:
    inside, outside = Room(LOCAL), Room(OPENAI)
    for room in (inside, outside):
        room.law.block("secret")
    await inside.ask("a secret")
    with pytest.raises(LawBlocked):
        await outside.ask("a secret")
    assert not outside.embedder.asked
    assert not outside.holds.holds


async def test_a_text_that_law_redacts_gets_no_vector_of_other_words() -> None:
    room = Room(OPENAI)
    room.law.redact("Bob", "[name]")
    with pytest.raises(Invalid):
        await room.ask("I am Bob")
    assert not room.holds.holds


@pytest.mark.parametrize(
    ("fault", "state"),
    [
        (ProviderUnavailable("x", deployment="d", charge=Charge.NOTHING), "released"),
        (ProviderUnavailable("x", deployment="d", charge=Charge.UNKNOWN), "dispatched"),
        (ProviderUnavailable("x", deployment="d", charge=Usage(input=1)), "settled"),
        (RuntimeError("a bug of ours"), "dispatched"),
    ],
)
async def test_a_failure_is_charged_for_what_is_known(fault: Exception, state: str) -> None:
    room = Room(LOCAL)
    room.embedder.faults.next(fault)
    with pytest.raises(type(fault)):
        await room.ask("a")
    assert room.holds.states == [state]
    assert len(room.cache) == 0


async def test_unknown_usage_leaves_the_hold_to_be_assumed() -> None:
    room = Room(LOCAL)
    room.embedder.reports_usage = False
    await room.ask("a")
    assert room.holds.states == ["dispatched"]


async def test_without_money_nothing_is_sent() -> None:
    room = Room(LOCAL)
    room.holds.reserving.next(Unavailable("cost"))
    with pytest.raises(Unavailable):
        await room.ask("a")
    assert not room.embedder.asked
    assert room.holds.states == []


async def test_more_calls_than_may_run_at_once_are_refused() -> None:
    room = Room(LOCAL, most_calls=1)
    room.embedder.gate = asyncio.Event()
    first = asyncio.ensure_future(room.ask("a"))
    async with asyncio.timeout(5):
        while not room.embedder.asked:  # noqa: ASYNC110
            await asyncio.sleep(0)
    with pytest.raises(ModelBusy):
        await room.ask("b")
    room.embedder.gate.set()
    await first
    await room.ask("b")


async def test_who_embeds_must_be_configured_and_in_the_region() -> None:
    with pytest.raises(NoEmbedderConfigured):
        await Room().ask("a")
    with pytest.raises(NoModelConfigured):
        await Room(OPENAI).ask("a", context=a_context(residency_region="eu"))
    await Room(LOCAL).ask("a", context=a_context(residency_region="eu"))


async def test_texts_stay_in_the_region_of_their_tenant() -> None:
    far, near = Room(OPENAI), Room(LOCAL)
    for room in (far, near):
        room.known.set(ANNA.tenant, residency_region="eu")
    with pytest.raises(NoModelConfigured, match="'eu'"):
        await far.ask("a")
    await near.ask("a")


async def test_a_call_whose_time_is_up_is_not_begun() -> None:
    room = Room(LOCAL)
    with pytest.raises(DeadlineExceeded):
        await room.ask("a", deadline=0.0)
    assert not room.holds.holds


def a_version(number: int, **changes: Any) -> DeploymentVersion:
    """A version that Anna's tenant registered."""
    values: dict[str, Any] = {"name": "acme/vectors", "adapter": Adapter.VLLM, "model": "mini", "task": Task.EMBED}
    values |= {"deployment_id": "dep_1", "version": number, **changes}
    return DeploymentVersion(**values)


def registered(*versions: DeploymentVersion, installed: tuple[DeploymentVersion, ...] = (LOCAL,)) -> Room:
    room = Room(*installed)
    deployments: dict[str, list[DeploymentVersion]] = {}
    for one in sorted(versions, key=lambda one: -one.version):
        deployments.setdefault(one.name, []).append(one)
    room.registry.take({ANNA.tenant: Holdings(deployments=deployments)}, whole=True)
    return room


async def test_a_model_of_a_tenant_is_asked_by_name_number_or_its_own_name_under_law_and_money() -> None:
    room = registered(a_version(1, model="embed-small"))
    for name in ("acme/vectors", "acme/vectors@1", "embed-small"):
        assert (await room.ask(f"text for {name}", model=name)).model == "embed-small"
    assert room.holds.states == ["settled"] * 3
    assert len(room.law.seen) == 3
    bert = Principal(tenant=TenantId(uuid4()), subject="key_bert", roles=frozenset(), token=Secret("t"))
    with pytest.raises(ModelNotFound):
        await room.ask("a", model="acme/vectors", principal=bert)


async def test_what_embeds_by_default_is_never_a_tenants() -> None:
    shadow = a_version(1, name=LOCAL.name, model="another")
    room = registered(a_version(1), shadow)
    assert (await room.ask("a")).model == LOCAL.model
    assert (await room.ask("a", model=LOCAL.name)).model == "another"
    assert len(room.embedder.asked) == 2, "vectors of one are never given for those of the other"
    with pytest.raises(NoEmbedderConfigured):
        await registered(a_version(1), installed=()).ask("a")


async def test_what_must_stay_inside_is_embedded_by_the_installation_whatever_a_tenant_calls_its_own() -> None:
    room = registered(a_version(1, name=LOCAL.name, model="another"))
    made = await room.ask("a", model=LOCAL.name, inside=LOCAL)
    assert made.model == LOCAL.model
    assert not room.law.seen, "nothing left"


async def test_what_must_stay_inside_is_sent_to_nobody_outside() -> None:
    room = Room(OPENAI)
    with pytest.raises(Internal):
        await room.ask("a", inside=OPENAI)
    assert not room.embedder.asked
    assert not room.holds.holds


async def test_the_law_sees_texts_under_their_label() -> None:
    room, secret = Room(OPENAI), Label(confidentiality=Confidentiality.RESTRICTED)
    await room.ask("a", label=secret)
    assert [part.label for part in room.law.seen[0].parts] == [secret]


async def test_vectors_of_one_version_are_not_those_of_the_next_or_of_another_model_of_its_name() -> None:
    room = registered(a_version(1), a_version(2))
    for name in ("acme/vectors@1", "acme/vectors@2", "acme/vectors"):
        await room.ask("a", model=name)
    assert len(room.embedder.asked) == 2, "the newest is asked by the plain name, and is known"
    room.registry.take(
        {ANNA.tenant: Holdings(deployments={"acme/vectors": [a_version(1, deployment_id="dep_2")]})}, whole=True
    )
    await room.ask("a", model="acme/vectors@1")
    assert len(room.embedder.asked) == 3


async def test_a_version_that_is_not_ready_is_asked_by_its_check_only_and_each_time_anew() -> None:
    room = registered(a_version(1, state=VersionState.CHECKING))
    for name in ("acme/vectors", "acme/vectors@1"):
        with pytest.raises(ModelNotReady):
            await room.ask("a", model=name)
    for _ in range(2):
        await room.ask("a", model="acme/vectors@1", checking=True)
    assert len(room.embedder.asked) == 2


async def test_who_answers_does_not_embed_and_who_embeds_does_not_answer() -> None:
    writer = a_version(1, name="acme/writer", task=Task.GENERATE, model="writer")
    room = registered(writer, a_version(1))
    for name in ("acme/writer", "acme/writer@1", "writer", "nobody"):
        with pytest.raises(ModelNotFound):
            await room.ask("a", model=name)
    names = room.registry.names(ANNA.tenant)
    assert names.chain == ()
    with pytest.raises(ModelNotFound):
        names.named("mini")


async def test_a_tenant_that_has_vectors_made_under_the_name_of_a_writer_loses_it_from_its_chain() -> None:
    writer = DeploymentVersion(name="openai/writer", adapter=Adapter.OPENAI, model="writer")
    room = registered(a_version(1, name="openai/writer"), installed=(writer, LOCAL))
    assert room.registry.resolve(ANNA.tenant, "default").versions == ()


async def test_texts_stay_in_the_region_of_their_tenant_with_its_own_models_too() -> None:
    room = registered(
        a_version(1, region="us"), a_version(1, name="acme/near", deployment_id="dep_2", region="eu-west-1")
    )
    room.known.set(ANNA.tenant, residency_region="eu")
    with pytest.raises(NoModelConfigured, match="'eu'"):
        await room.ask("a", model="acme/vectors")
    await room.ask("a", model="acme/near")


def test_the_cache_keeps_the_newest_within_its_bound_of_bytes() -> None:
    small, long = (1.0,), (1.0,) * 384
    cache = VectorCache(most_bytes=1_100)
    for text in ("a", "b"):
        cache.put(TENANT, "m", text, small)
    assert cache.get(TENANT, "m", "a") == small
    cache.put(TENANT, "m", "c", small)
    cache.put(TENANT, "m", "c", small)
    assert (len(cache), cache.bytes) == (2, 2 * 516)
    assert cache.get(TENANT, "m", "b") is None
    assert cache.get(TENANT, "other", "a") is None
    cache.put(TENANT, "m", "d", long)
    assert (len(cache), cache.bytes) == (0, 0), "one that is longer than all of it is not kept"
    other = TenantId(uuid4())
    cache.put(TENANT, "m", "mine", small)
    for number in range(20):
        cache.put(other, "m", str(number), small)
    assert cache.get(TENANT, "m", "mine") == small, "who has more makes room"
    assert cache.get(other, "m", "19") == small
    roomy = VectorCache(most_bytes=100_000)
    roomy.put(TENANT, "m", "d", long)
    assert 2_000 <= roomy.bytes <= 2_100, "as the setting says"
