"""One suite for the store of bundles, on the fake and on real Postgres."""

import secrets
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import pytest_asyncio

from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import DatabaseUrls, provision
from services.policy.domain.errors import BundleNotFound, BundleVersionExists, TooManyBundles
from services.policy.storage.bundle_repository import BundleRepository
from services.policy.usecases.ports import ActiveLaw, BundleStore, LawChange
from tests.support.memory_policy_store import MemoryBundleStore
from tests.support.policy import a_new_bundle

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def urls(postgres: str) -> DatabaseUrls:
    made = await provision(postgres, f"comitia_policy_{secrets.token_hex(4)}")
    await migrate("services.policy", made.migrator)
    return made


@pytest.fixture(params=["memory", "postgres"])
def backend(request: pytest.FixtureRequest) -> DatabaseUrls | None:
    """The database to use, None for the fake."""
    return None if request.param == "memory" else request.getfixturevalue("urls")


@pytest_asyncio.fixture(loop_scope="module")
async def store(backend: DatabaseUrls | None) -> AsyncIterator[BundleStore]:
    if backend is None:
        yield MemoryBundleStore()
        return
    async with sql_engine(backend.app, pool_size=3) as app, sql_engine(backend.maintenance, pool_size=2) as maintenance:
        yield BundleRepository(app=app, maintenance=maintenance, clock=SystemClock())


@pytest.fixture
def tenant() -> TenantId:
    return TenantId(uuid4())


async def test_a_bundle_comes_back_as_it_was_stored(store: BundleStore, tenant: TenantId) -> None:
    new = a_new_bundle(version="1.2.3")
    stored = await store.add(tenant, new, activate=False, most=10)
    assert stored == new.bundle
    assert await store.find(tenant, "house", "1.2.3") == new.bundle
    assert await store.active(tenant) is None


async def test_the_same_rules_are_stored_once(store: BundleStore, tenant: TenantId) -> None:
    first = await store.add(tenant, a_new_bundle(), activate=False, most=1)
    again = await store.add(tenant, a_new_bundle(), activate=True, most=1)
    assert (again.id, again.active) == (first.id, True)


async def test_other_rules_under_the_same_version_are_refused_and_change_nothing(
    store: BundleStore, tenant: TenantId
) -> None:
    await store.add(tenant, a_new_bundle(), activate=False, most=10)
    with pytest.raises(BundleVersionExists):
        await store.add(tenant, a_new_bundle(digest="ff"), activate=True, most=10)
    assert await store.active(tenant) is None


async def test_one_bundle_too_many_is_refused_and_changes_nothing(store: BundleStore, tenant: TenantId) -> None:
    await store.add(tenant, a_new_bundle(), activate=False, most=1)
    with pytest.raises(TooManyBundles):
        await store.add(tenant, a_new_bundle(version="2.0.0"), activate=True, most=1)
    with pytest.raises(BundleNotFound):
        await store.find(tenant, "house", "2.0.0")
    assert await store.active(tenant) is None


async def test_a_name_means_the_active_else_the_highest_version(store: BundleStore, tenant: TenantId) -> None:
    for version in ("1.9.0", "1.10.0", "1.2.0"):
        await store.add(tenant, a_new_bundle(version=version), activate=False, most=10)
    assert (await store.find(tenant, "house", "")).version == "1.10.0"
    chosen = await store.find(tenant, "house", "1.2.0")
    await store.activate(tenant, ActiveLaw("house", "1.2.0"), by="key_1", bundle=chosen)
    assert (await store.find(tenant, "house", "")).version == "1.2.0"
    assert await store.active(tenant) == ActiveLaw("house", "1.2.0")


async def test_pages_go_by_name_then_version(store: BundleStore, tenant: TenantId) -> None:
    for name, version in (("b", "1.0.0"), ("a", "1.10.0"), ("a", "1.9.0")):
        await store.add(tenant, a_new_bundle(name=name, version=version), activate=name == "b", most=10)
    first = await store.page(tenant, after=None, most=2)
    rest = await store.page(tenant, after=("a", "1.10.0"), most=2)
    assert [(bundle.reference, bundle.active, bundle.source) for bundle in (*first, *rest)] == [
        ("a@1.9.0", False, ""),
        ("a@1.10.0", False, ""),
        ("b@1.0.0", True, ""),
    ]


async def test_another_tenants_bundles_are_not_found(store: BundleStore, tenant: TenantId) -> None:
    await store.add(tenant, a_new_bundle(), activate=True, most=10)
    stranger = TenantId(uuid4())
    with pytest.raises(BundleNotFound):
        await store.find(stranger, "house", "1.0.0")
    assert await store.page(stranger, after=None, most=10) == []
    assert await store.active(stranger) is None


async def test_changes_of_law_are_seen_in_order_each_tenant_once(store: BundleStore, tenant: TenantId) -> None:
    before = await store.newest_change()
    other = TenantId(uuid4())
    for who, version in ((tenant, "1.0.0"), (other, "1.0.0"), (tenant, "2.0.0")):
        await store.add(who, a_new_bundle(version=version), activate=True, most=10)
    changes = await store.changes_since(before, most=10)
    assert changes == [LawChange(before + 2, other, "house@1.0.0"), LawChange(before + 3, tenant, "house@2.0.0")]
    assert await store.changes_since(changes[0].number, most=10) == [changes[1]]
    assert await store.changes_since(before, most=1) == [changes[0]]
    assert await store.newest_change() == before + 3
