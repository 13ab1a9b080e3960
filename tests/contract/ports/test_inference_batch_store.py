"""The store of batches on real Postgres: leases, ends, pages, and what is forgotten."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from sqlalchemy import text

from services.inference.domain.batch_job import MOST_OPEN_BATCHES, BatchItem, BatchJob, BatchState, ItemState
from services.inference.domain.errors import BatchEnded, BatchNotFound, TooManyBatches
from services.inference.storage.batch_repository import BatchRepository
from services.inference.usecases.batch_ports import LeasedBatch, LeaseLost
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.crypto.kek_file import KekFile, create_kek_file
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.sql.data_keys import SqlDataKeys
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import DatabaseUrls, provision
from services.meshkit.sql.scope import maintenance_scope
from tests.contract.ports.test_inference_call_store import ANSWER

pytestmark = pytest.mark.asyncio(loop_scope="module")

LEASE = timedelta(minutes=1)
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def urls(postgres: str) -> DatabaseUrls:
    made = await provision(postgres, f"comitia_inference_{secrets.token_hex(4)}")
    await migrate("services.inference", made.migrator)
    return made


@pytest_asyncio.fixture(loop_scope="module")
async def store(urls: DatabaseUrls, tmp_path: Path) -> AsyncIterator[BatchRepository]:
    create_kek_file(tmp_path / "kek")
    async with (
        sql_engine(urls.app, pool_size=2) as app,
        sql_engine(urls.maintenance, pool_size=2) as maintenance,
    ):
        keys = KeyRing(SqlDataKeys(app), await KekFile.read(tmp_path / "kek"), clock=SystemClock(), ids=SystemIds())
        yield BatchRepository(app, maintenance, keys=keys)
        async with maintenance_scope(maintenance) as scope:
            await scope.execute(text("DELETE FROM model_batch_item"))
            await scope.execute(text("DELETE FROM model_batch"))
            await scope.commit()


def a_job(**changes: Any) -> BatchJob:
    values: dict[str, Any] = {
        "id": SystemIds().uuid(),
        "tenant": TenantId(uuid4()),
        "deployment": "openai/gpt-test",
        "version": 0,
        "payee": "openai",
        "grant_id": "grant_1",
        "item_count": 2,
        "created": NOON,
    }
    return BatchJob(**{**values, **changes})


ITEMS = [("a", b"what a asks"), ("b", b"what b asks")]


async def leased_of(store: BatchRepository, job: BatchJob) -> LeasedBatch:
    await store.add(job, ITEMS)
    [leased] = await store.take(most=9, of_one_tenant=9, lease=LEASE)
    return leased


async def test_a_batch_is_kept_whole_and_what_it_asked_until_it_has_ended(store: BatchRepository) -> None:
    leased = await leased_of(store, a_job())
    job = leased.job
    assert job == a_job(id=job.id, tenant=job.tenant)
    assert await store.requests(job, [0, 1]) == {0: b"what a asks", 1: b"what b asks"}
    first, second = await store.items(job)
    answered = replace(first, state=ItemState.ANSWERED, hold_id="hold_1", charged=7, outcome=ANSWER)
    leased = await store.save(leased, replace(job, state=BatchState.HELD), [answered])
    assert await store.requests(job, [0, 1]) == {1: b"what b asks"}
    assert list(await store.items(job)) == [answered, second]
    view = await store.view(job.tenant, job.name, bound_to=None)
    assert view.counts == {ItemState.ANSWERED: 1, ItemState.WAITING: 1}
    # What has ended stays as it is.
    await store.save(leased, leased.job, [replace(answered, state=ItemState.UNKNOWN, outcome=None)])
    assert (await store.items(job))[0] == answered


async def test_each_batch_is_leased_by_one_at_a_time(store: BatchRepository) -> None:
    for _ in range(6):
        await store.add(a_job(), ITEMS)
    taken = await asyncio.gather(*(store.take(most=4, of_one_tenant=9, lease=LEASE) for _ in range(4)))
    ids = [one.job.id for part in taken for one in part]
    assert len(ids) == len(set(ids)) == 6
    assert not await store.take(most=4, of_one_tenant=9, lease=LEASE)


async def test_one_tenant_leaves_leases_to_the_others(store: BatchRepository) -> None:
    busy, other = TenantId(uuid4()), TenantId(uuid4())
    for tenant in (busy, busy, busy, other):
        await store.add(a_job(tenant=tenant), ITEMS)
    taken = await store.take(most=9, of_one_tenant=2, lease=LEASE)
    assert [one.job.tenant for one in taken].count(busy) == 2
    assert [one.job.tenant for one in taken].count(other) == 1
    assert not await store.take(most=9, of_one_tenant=2, lease=LEASE)
    freed = next(one for one in taken if one.job.tenant == busy)
    await store.hand_back(freed, look_in=timedelta(hours=1))
    [third] = await store.take(most=9, of_one_tenant=2, lease=LEASE)
    assert (third.job.tenant, third.job.id in {one.job.id for one in taken}) == (busy, False)


async def test_a_batch_that_cannot_be_read_keeps_nobody_from_the_others(
    store: BatchRepository, urls: DatabaseUrls
) -> None:
    odd, good = a_job(), a_job()
    await store.add(odd, ITEMS)
    await store.add(good, ITEMS)
    async with sql_engine(urls.migrator, pool_size=1) as engine, engine.begin() as connection:
        await connection.execute(text("ALTER TABLE model_batch DROP CONSTRAINT ck_model_batch_state"))
    async with sql_engine(urls.maintenance, pool_size=1) as engine, maintenance_scope(engine) as scope:
        values = {"id": odd.id}
        await scope.execute(text("UPDATE model_batch SET state = 'dreaming' WHERE batch_id = :id"), values)
        await scope.commit()
    assert [one.job.id for one in await store.take(most=9, of_one_tenant=9, lease=LEASE)] == [good.id]


async def test_whoever_lost_the_lease_writes_nothing(store: BatchRepository) -> None:
    job = a_job()
    await store.add(job, ITEMS)
    [late] = await store.take(most=1, of_one_tenant=9, lease=timedelta())
    [now] = await store.take(most=1, of_one_tenant=9, lease=LEASE)
    item = BatchItem(index=0, item_id="a", state=ItemState.SENT)
    with pytest.raises(LeaseLost):
        await store.save(late, replace(job, state=BatchState.HELD), [item])
    with pytest.raises(LeaseLost):
        await store.renew(late, lease=LEASE)
    await store.hand_back(late, look_in=timedelta())
    assert not await store.take(most=1, of_one_tenant=9, lease=LEASE)
    assert (await store.items(job))[0].state is ItemState.WAITING
    await store.renew(now, lease=LEASE)
    await store.save(now, replace(job, state=BatchState.HELD), [item])


async def test_a_batch_is_looked_at_again_when_it_is_due_or_to_stop(store: BatchRepository) -> None:
    leased = await leased_of(store, a_job())
    job = leased.job
    await store.hand_back(leased, look_in=timedelta(hours=1))
    assert not await store.take(most=1, of_one_tenant=9, lease=LEASE)
    view = await store.request_cancel(job.tenant, job.name, bound_to=None)
    assert view.job.cancel_requested
    [again] = await store.take(most=1, of_one_tenant=9, lease=LEASE)
    assert again.job.cancel_requested
    await store.hand_back(again, look_in=timedelta(hours=1))
    assert not await store.take(most=1, of_one_tenant=9, lease=LEASE)


async def test_a_wish_to_stop_that_comes_during_a_step_is_heard_after_it(store: BatchRepository) -> None:
    leased = await leased_of(store, a_job())
    await store.request_cancel(leased.job.tenant, leased.job.name, bound_to=None)
    leased = await store.save(leased, replace(leased.job, state=BatchState.HELD), [])
    await store.hand_back(leased, look_in=timedelta(hours=1))
    [again] = await store.take(most=1, of_one_tenant=9, lease=LEASE)
    assert again.job.cancel_requested


async def test_what_has_ended_is_neither_leased_nor_cancelled_and_is_forgotten(store: BatchRepository) -> None:
    leased = await leased_of(store, a_job())
    ended = replace(leased.job, state=BatchState.ENDED, ended=datetime.now(UTC) - timedelta(hours=1))
    leased = await store.save(leased, ended, [])
    await store.hand_back(leased, look_in=timedelta())
    assert not await store.take(most=1, of_one_tenant=9, lease=LEASE)
    with pytest.raises(BatchEnded):
        await store.request_cancel(ended.tenant, ended.name, bound_to=None)
    assert await store.forget(older=timedelta(hours=2), most=9) == 0
    assert await store.forget(older=timedelta(minutes=1), most=9) == 1
    with pytest.raises(BatchNotFound):
        await store.view(ended.tenant, ended.name, bound_to=None)
    assert not await store.items(ended)


async def test_a_page_of_results_is_cut_by_bytes_too(store: BatchRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    leased = await leased_of(store, a_job())
    answered = [
        replace(one, state=ItemState.ANSWERED, outcome=ANSWER, hold_id="hold_1")
        for one in await store.items(leased.job)
    ]
    job = (await store.save(leased, leased.job, answered)).job
    whole, more = await store.results(job.tenant, job.name, bound_to=None, after=-1, most=9)
    assert ([one.item_id for one in whole], more) == (["a", "b"], False)
    monkeypatch.setattr("services.inference.storage.batch_repository._PAGE_BYTES", 10)
    page, more = await store.results(job.tenant, job.name, bound_to=None, after=-1, most=9)
    assert ([one.item_id for one in page], more) == (["a"], True)


async def test_a_tenant_has_so_many_open_batches_and_no_more(store: BatchRepository) -> None:
    tenant = TenantId(uuid4())
    for _ in range(MOST_OPEN_BATCHES):
        await store.add(a_job(tenant=tenant), ITEMS)
    with pytest.raises(TooManyBatches):
        await store.add(a_job(tenant=tenant), ITEMS)
    with pytest.raises(TooManyBatches):
        await store.check_addable(tenant)
    await store.check_addable(TenantId(uuid4()))
    await store.add(a_job(), ITEMS)
    listed = await store.views(tenant, bound_to=None, before=None, most=3)
    assert len(listed) == 3
    assert [one.job.id for one in listed] == sorted((one.job.id for one in listed), reverse=True)


async def test_batches_that_come_at_once_are_counted_one_after_the_other(
    store: BatchRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = TenantId(uuid4())
    for _ in range(MOST_OPEN_BATCHES - 1):
        await store.add(a_job(tenant=tenant), ITEMS)

    async def takes_long(*_: Any) -> None:
        await asyncio.sleep(1)

    monkeypatch.setattr("services.inference.storage.batch_repository.keep_once", takes_long)
    made = await asyncio.gather(*(store.add(a_job(tenant=tenant), ITEMS) for _ in range(2)), return_exceptions=True)
    assert sorted(type(one).__name__ for one in made) == ["BatchView", "TooManyBatches"]
