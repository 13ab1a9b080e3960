"""The suite of `engine.ports.Starts`: how runs begin."""

from uuid import uuid4

import pytest

from services.meshkit.core.errors import RequestIdReused
from services.meshkit.core.identity import TenantId
from services.orchestrator.engine.run import (
    RunKind,
    StartKey,
)
from tests.support.run_places import Driven, Place, Store, a_run, an_owner, asked, join

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_run_whose_starter_holds_no_lease_waits_to_be_adopted(store: Store, tenant: TenantId) -> None:
    driven = await a_run(store, tenant, None)
    [adopt] = await store.inbox.commands_of(driven.run.run_id)
    assert (adopt.kind, adopt.by) == ("adopt", "")
    assert list((await asked(store, driven.run.shard))[driven.run.run_id]) == [adopt]


async def test_a_run_started_under_a_lost_lease_waits_to_be_adopted(place: Place, tenant: TenantId) -> None:
    store = place.store
    [lease, *_] = (await join(store, an_owner())).leases
    await place.expire(lease.shard)
    driven = Driven(tenant, shard=lease.shard)
    assert not (await store.starts.create(driven.first, None, lease)).held
    assert [command.kind for command in await store.inbox.commands_of(driven.run.run_id)] == ["adopt"]


async def test_the_same_request_starts_one_run(store: Store, tenant: TenantId) -> None:
    key = StartKey(tenant=tenant, kind=RunKind.SESSION, request_id=uuid4(), body=b"a")
    first, second = Driven(tenant), Driven(tenant)
    assert await store.starts.started_before(key) is None
    assert (await store.starts.create(first.first, key, None)).earlier is None
    assert await store.starts.started_before(key) == first.first.view
    assert (await store.starts.create(second.first, key, None)).earlier == first.first.view
    assert await store.finder.owned_run(second.run.run_id) is None, "nothing was written"
    other = StartKey(tenant=tenant, kind=RunKind.SESSION, request_id=key.request_id, body=b"b")
    with pytest.raises(RequestIdReused):
        await store.starts.create(second.first, other, None)
