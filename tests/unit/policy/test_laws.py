"""How a replica keeps up with the law."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest

from services.meshkit.core.errors import Unavailable
from services.meshkit.core.identity import TenantId
from services.meshkit.testing.fake_clock import FakeClock
from services.policy.domain.errors import NoBundle
from services.policy.rules.compiled import CompiledBundle
from services.policy.rules.shipped import ShippedBundles, load_shipped
from services.policy.usecases.laws import Laws
from services.policy.usecases.ports import ActiveLaw
from tests.support.memory_policy_store import MemoryBundleStore
from tests.support.policy import a_bundle, a_new_bundle

TENANT, OTHER = TenantId(uuid4()), TenantId(uuid4())


class NoWakes:
    """A bus that is away."""

    async def law_changed(self) -> None: ...

    async def violations_recorded(self, tenants: Iterable[TenantId]) -> None: ...

    @asynccontextmanager
    async def law_changes(self) -> AsyncGenerator[AsyncIterator[None]]:
        yield never()

    @asynccontextmanager
    async def recorded(self) -> AsyncGenerator[AsyncIterator[TenantId]]:
        yield never()


async def never() -> AsyncGenerator[Any]:
    await asyncio.Event().wait()
    yield


class Compiler:
    """Runs the compiler when told to, and counts."""

    def __init__(self) -> None:
        self.ran = 0
        self.may_run = asyncio.Event()
        self.may_run.set()

    async def __call__(self, work: Callable[[], CompiledBundle]) -> CompiledBundle:
        await self.may_run.wait()
        self.ran += 1
        return work()


@pytest.fixture(scope="module")
def shipped() -> ShippedBundles:
    return load_shipped()


@pytest.fixture
def store() -> MemoryBundleStore:
    return MemoryBundleStore()


@pytest.fixture
def compiler() -> Compiler:
    return Compiler()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def laws(store: MemoryBundleStore, shipped: ShippedBundles, compiler: Compiler, clock: FakeClock) -> Laws:
    return Laws(
        store=store,
        shipped=shipped,
        wakes=NoWakes(),
        clock=clock,
        off_loop=compiler,
        most_tenants=2,
        most_bundles=1,
    )


async def make_law(store: MemoryBundleStore, version: str, *, tenant: TenantId = TENANT, keyword: str = "x") -> None:
    source = a_bundle(version=version, keyword=keyword)
    await store.add(tenant, a_new_bundle(version=version, source=source), activate=True, most=99)


async def test_a_tenant_without_a_law_of_its_own_has_the_shipped_one(laws: Laws) -> None:
    assert laws.peek(TENANT) is None
    assert (await laws.of(TENANT)).reference == "ground@1.0.0"
    assert laws.peek(TENANT) is not None


async def test_concurrent_questions_load_a_law_once(laws: Laws, store: MemoryBundleStore, compiler: Compiler) -> None:
    await make_law(store, "1.0.0")
    found = await asyncio.gather(*(laws.of(TENANT) for _ in range(20)))
    assert {law.reference for law in found} == {"house@1.0.0"}
    assert (store.lookups, compiler.ran) == (1, 1)


async def test_tenants_with_the_same_rules_share_what_was_compiled(
    laws: Laws, store: MemoryBundleStore, compiler: Compiler
) -> None:
    for tenant in (TENANT, OTHER):
        await make_law(store, "1.0.0", tenant=tenant)
        await laws.of(tenant)
    assert compiler.ran == 1


async def test_what_is_remembered_is_bounded_and_comes_back(
    laws: Laws, store: MemoryBundleStore, compiler: Compiler
) -> None:
    tenants = [TenantId(uuid4()) for _ in range(3)]
    for number, tenant in enumerate(tenants):
        await make_law(store, "1.0.0", tenant=tenant, keyword=f"word{number}")
        await laws.of(tenant)
    assert [laws.peek(tenant) is not None for tenant in tenants] == [False, False, True]
    assert (await laws.of(tenants[0])).reference == "house@1.0.0"
    assert compiler.ran == 4


async def test_a_change_elsewhere_is_seen_at_the_next_look(
    laws: Laws, store: MemoryBundleStore, clock: FakeClock
) -> None:
    following = asyncio.ensure_future(laws())
    await clock.until_someone_sleeps()
    assert await laws.ready() is None
    await laws.of(TENANT)
    await make_law(store, "1.0.0")
    assert (await laws.of(TENANT)).reference == "ground@1.0.0"
    clock.advance(seconds=1)
    await clock.until_someone_sleeps()
    assert (await laws.of(TENANT)).reference == "house@1.0.0"
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_a_law_that_was_loaded_after_its_change_stays_when_the_change_is_seen(
    laws: Laws, store: MemoryBundleStore
) -> None:
    await laws.look()
    await make_law(store, "1.0.0")
    await laws.of(TENANT)
    await laws.look()
    store.faults.next(Unavailable("postgres"))
    assert (await laws.of(TENANT)).reference == "house@1.0.0"


async def test_a_load_that_a_change_overtakes_is_not_kept(
    laws: Laws, store: MemoryBundleStore, compiler: Compiler
) -> None:
    await laws.look()
    await make_law(store, "1.0.0")
    compiler.may_run.clear()
    slow = asyncio.ensure_future(laws.of(TENANT))
    await asyncio.sleep(0)
    await make_law(store, "2.0.0", keyword="y")
    await laws.look()
    compiler.may_run.set()
    assert (await slow).reference == "house@1.0.0"  # it was law when the question came
    assert laws.peek(TENANT) is None
    assert (await laws.of(TENANT)).reference == "house@2.0.0"


async def test_without_the_store_what_is_known_holds_and_the_rest_is_refused(
    laws: Laws, store: MemoryBundleStore
) -> None:
    await laws.of(TENANT)
    store.faults.next(Unavailable("postgres"), times=3)
    with pytest.raises(Unavailable):
        await laws.look()
    assert (await laws.of(TENANT)).reference == "ground@1.0.0"
    with pytest.raises(NoBundle):
        await laws.of(OTHER)
    assert await laws.ready() is not None
    with pytest.raises(NoBundle):
        await laws.of(OTHER)
    assert (await laws.of(OTHER)).reference == "ground@1.0.0"


async def test_a_law_that_does_not_exist_lets_nothing_pass(laws: Laws, store: MemoryBundleStore) -> None:
    await store.activate(TENANT, ActiveLaw("ground", "9.9.9"), by="key_1", bundle=a_new_bundle().bundle)
    with pytest.raises(NoBundle):
        await laws.of(TENANT)
