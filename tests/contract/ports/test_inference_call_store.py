"""One suite for the memory of calls, on the fake and on real Postgres."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from sqlalchemy import text

from services.inference.domain.answer import Answer, AttemptNote, StopReason
from services.inference.domain.call import Blocked, Claimed, RecordedCall, SettleState, Unjudged
from services.inference.domain.errors import CallArgumentsDiffer, CallInProgress
from services.inference.storage import batch_tables, registry_tables, rollout_tables, routing_tables, tables
from services.inference.storage.call_repository import CallRepository
from services.inference.storage.tenant_data import TENANT_DATA
from services.inference.usecases.ports import CallStore
from services.meshkit.calls.ports import Settlement
from services.meshkit.content import CallId, CallKey, Label, Part, ToolCallPart, Usage, text_part
from services.meshkit.content.law import RuleOutcome
from services.meshkit.core.clock import Clock, SystemClock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.core.money import NanoUsd
from services.meshkit.core.secret import Secret
from services.meshkit.crypto.kek_file import KekFile, create_kek_file
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.sql.catalogue import audit_catalogue
from services.meshkit.sql.data_keys import SqlDataKeys
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import drift, migrate
from services.meshkit.sql.roles import DatabaseUrls, provision
from services.meshkit.sql.scope import MAX_TENANTS, maintenance_scope, tenant_scope
from services.meshkit.sql.tenant_rows import TenantRows
from services.meshkit.testing.fake_clock import FakeClock
from tests.integration.conftest import MakeDatabase
from tests.support.inference import USER, MemoryCallStore

pytestmark = pytest.mark.asyncio(loop_scope="module")

HASH = b"h" * 32
ANSWER = Answer(
    parts=(
        text_part("Yes \x00\ud7ff — no.", USER),
        Part(ToolCallPart(tool_call_id="c", name="search", arguments={"q": [10**24, {"deep": None}]}), Label()),
    ),
    stop_reason=StopReason.TOOL_CALLS,
    usage=Usage(input=10, output=5, reasoning=2),
    provider="openai",
    model="gpt-test",
    hold_id="hold_1",
    cost_nano_usd=0,
    verdict_ids=("verdict_1", "verdict_2"),
    bundle_digest="ab",
    rules=(RuleOutcome(rule="words", status="pass", elapsed_us=7, stage="before"),),
    provider_us=1234,
    failed_attempts=("anthropic/x: PROVIDER_REFUSED",),
    attempts=(
        AttemptNote(
            deployment="openai/gpt-test", version=2, hold_id="hold_1", reason="", usage_known=True, provider_us=1234
        ),
    ),
    deployment="openai/gpt-test",
    deployment_version=2,
    lost_attempts=1,
    repairs=1,
    continued_by="anthropic/x",
    first_byte_us=99,
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def urls(postgres: str) -> DatabaseUrls:
    made = await provision(postgres, f"comitia_inference_{secrets.token_hex(4)}")
    await migrate("services.inference", made.migrator)
    return made


@asynccontextmanager
async def postgres_store(
    urls: DatabaseUrls,
    folder: Path,
    *,
    replica: str = "replica_1",
    claim_seconds: float = 60.0,
    unacknowledged: timedelta = timedelta(0),
) -> AsyncIterator[CallRepository]:
    if not (folder / "kek").exists():
        create_kek_file(folder / "kek")
    async with sql_engine(urls.app, pool_size=3) as app, sql_engine(urls.maintenance, pool_size=2) as maintenance:
        keys = KeyRing(SqlDataKeys(app), await KekFile.read(folder / "kek"), clock=SystemClock(), ids=SystemIds())
        calls = CallRepository(
            app,
            maintenance,
            keys=keys,
            replica=replica,
            claim_seconds=claim_seconds,
            unacknowledged=unacknowledged,
        )
        async with calls.running() as store:
            yield store


@pytest_asyncio.fixture(params=["memory", "postgres"], loop_scope="module")
async def stored(request: Any, urls: DatabaseUrls, tmp_path: Path) -> AsyncIterator[tuple[CallStore, Clock]]:
    """Gives a store and the clock by which it keeps time."""
    if request.param == "memory":
        clock = FakeClock()
        yield MemoryCallStore(clock), clock
        return
    async with postgres_store(urls, tmp_path) as store:
        yield store, SystemClock()
        async with sql_engine(urls.maintenance, pool_size=1) as engine, maintenance_scope(engine) as scope:
            await scope.execute(text("DELETE FROM call"))
            await scope.commit()


def a_key(tenant: TenantId | None = None, **changes: Any) -> CallKey:
    values: dict[str, Any] = {"run_id": "run_1", "path": "rounds/1/Athena", **changes}
    call_id = CallId(**values)
    return CallKey(tenant=tenant or TenantId(uuid4()), call_id=call_id)


def a_call(key: CallKey, **changes: Any) -> RecordedCall:
    values: dict[str, Any] = {
        "key": key,
        "arguments_hash": HASH,
        "outcome": ANSWER,
        "hold_id": "hold_1",
        "usage": ANSWER.usage,
        "settle_state": SettleState.PENDING,
    }
    return RecordedCall(**{**values, **changes})


Stored = tuple[CallStore, Clock]


async def test_a_claim_is_free_until_there_is_an_outcome(stored: Stored) -> None:
    store, _ = stored
    key = a_key()
    assert await store.claim(key, HASH) == Claimed()
    assert await store.claim(key, HASH) == Claimed(lost_attempts=1), "who crashed before an outcome may try again"
    await store.record(a_call(key), token=Secret("token"))
    assert await store.claim(key, HASH) == a_call(key)


async def test_a_call_that_was_given_back_was_not_lost(stored: Stored) -> None:
    store, _ = stored
    key, lost = a_key(), a_key(path="lost")
    for expected in (0, 0, 0):
        assert await store.claim(key, HASH) == Claimed(lost_attempts=expected)
        await store.give_back(key)
    for expected in (0, 1, 2):
        assert await store.claim(lost, HASH) == Claimed(lost_attempts=expected)
    await store.give_back(lost)
    assert await store.claim(lost, HASH) == Claimed(lost_attempts=2), "what was lost before stays so"


@pytest_asyncio.fixture(params=["memory", "postgres"], loop_scope="module")
async def replicas(request: Any, urls: DatabaseUrls, tmp_path: Path) -> AsyncIterator[list[CallStore]]:
    """Gives the stores of two replicas, and of one that is never heard of again once it has claimed a call."""
    if request.param == "memory":
        first = MemoryCallStore(FakeClock())
        yield [first, first.beside("replica_2"), first.beside("replica_3", claim_seconds=0.0)]
        return
    async with (
        postgres_store(urls, tmp_path) as one,
        postgres_store(urls, tmp_path, replica="replica_2") as two,
        postgres_store(urls, tmp_path, replica="replica_3", claim_seconds=0.0) as dying,
    ):
        yield [one, two, dying]


async def test_what_one_replica_makes_others_are_told_to_come_back_for(replicas: list[CallStore]) -> None:
    one, two, _ = replicas
    key = a_key()
    assert await one.claim(key, HASH) == Claimed()
    with pytest.raises(CallInProgress) as refused:
        await two.claim(key, HASH)
    assert refused.value.retry_after == timedelta(seconds=1)
    with pytest.raises(CallArgumentsDiffer):
        await two.claim(key, b"x" * 32)
    await two.give_back(key)
    await two.free_claims([key])
    with pytest.raises(CallInProgress):
        await two.claim(key, HASH)
    assert await one.claim(key, HASH) == Claimed(lost_attempts=1), "its own replica knows at once that it was lost"
    await one.record(a_call(key), token=Secret("token"))
    assert await two.claim(key, HASH) == a_call(key)


async def test_a_replica_that_dies_is_waited_for_no_longer_than_its_claim_lasts(replicas: list[CallStore]) -> None:
    one, two, dying = replicas
    key = a_key()
    await dying.claim(key, HASH)
    assert await one.claim(key, HASH) == Claimed(lost_attempts=1)
    await dying.extend_claims([key])
    await dying.give_back(key)
    with pytest.raises(CallInProgress):
        await two.claim(key, HASH)
    with pytest.raises(CallInProgress):
        await dying.claim(key, HASH)


async def test_a_claim_that_is_given_back_or_freed_is_free_for_all(replicas: list[CallStore]) -> None:
    one, two, _ = replicas
    given_back, freed = a_key(path="given back"), a_key(path="freed")
    for key in (given_back, freed):
        await one.claim(key, HASH)
    await one.give_back(given_back)
    await one.free_claims([freed])
    assert await two.claim(given_back, HASH) == Claimed()
    assert await two.claim(freed, HASH) == Claimed(lost_attempts=1)


async def test_a_claim_that_is_extended_outlives_its_time(replicas: list[CallStore]) -> None:
    one, two, _ = replicas
    key, other = a_key(), a_key(path="other")
    for claimed in (key, other):
        await one.claim(claimed, HASH)
        await one.free_claims([claimed])
    await one.extend_claims([key])
    with pytest.raises(CallInProgress):
        await two.claim(key, HASH)
    assert await two.claim(other, HASH) == Claimed(lost_attempts=1)


async def test_claims_of_more_tenants_than_one_transaction_sees_are_extended_and_freed(
    replicas: list[CallStore],
) -> None:
    one, two, _ = replicas
    keys = [a_key() for _ in range(MAX_TENANTS + 1)]
    await asyncio.gather(*(one.claim(key, HASH) for key in keys))
    await one.free_claims(keys)
    await one.extend_claims(keys)
    for key in (keys[0], keys[-1]):
        with pytest.raises(CallInProgress):
            await two.claim(key, HASH)
    await one.free_claims(keys)
    for key in (keys[0], keys[-1]):
        assert await two.claim(key, HASH) == Claimed(lost_attempts=1)


async def test_of_replicas_that_claim_at_the_same_time_one_makes_the_call(replicas: list[CallStore]) -> None:
    one, two, _ = replicas
    keys = [a_key(path=str(number)) for number in range(20)]
    claims = await asyncio.gather(
        *(store.claim(key, HASH) for key in keys for store in (one, two)), return_exceptions=True
    )
    for mine, theirs in zip(claims[::2], claims[1::2], strict=True):
        assert {type(mine), type(theirs)} == {Claimed, CallInProgress}


async def test_calls_that_come_together_are_told_apart(stored: Stored) -> None:
    store, _ = stored
    lost, fresh, other = a_key(path="lost"), a_key(path="fresh"), a_key(path="other")
    await store.claim(lost, HASH)
    await store.claim(other, HASH)
    claims = await asyncio.gather(
        store.claim(fresh, HASH), store.claim(lost, HASH), store.claim(other, b"x" * 32), return_exceptions=True
    )
    assert claims[:2] == [Claimed(), Claimed(lost_attempts=1)]
    assert isinstance(claims[2], CallArgumentsDiffer)
    assert await store.claim(other, HASH) == Claimed(lost_attempts=1), "who was refused began nothing"


async def test_every_part_of_an_id_counts(stored: Stored) -> None:
    store, _ = stored
    key = a_key()
    await store.record(a_call(key), token=Secret("token"))
    for changes in ({"run_id": "run_2"}, {"path": "other"}, {"attempt_group": 1}, {"index": 1}):
        assert await store.claim(a_key(key.tenant, **changes), b"other" * 6) == Claimed()
    assert await store.claim(a_key(), b"other" * 6) == Claimed(), "another tenant's ids are its own"


async def test_other_arguments_are_refused_before_and_after_the_outcome(stored: Stored) -> None:
    store, _ = stored
    key = a_key()
    await store.claim(key, HASH)
    with pytest.raises(CallArgumentsDiffer):
        await store.claim(key, b"x" * 32)
    await store.record(a_call(key), token=Secret("token"))
    with pytest.raises(CallArgumentsDiffer):
        await store.claim(key, b"x" * 32)


async def test_the_first_outcome_stands(stored: Stored) -> None:
    store, _ = stored
    key = a_key()
    first = a_call(key)
    assert await store.record(first, token=Secret("token")) == first
    late = a_call(key, hold_id="hold_2", outcome=replace(ANSWER, hold_id="hold_2"))
    assert await store.record(late, token=Secret("token")) == first


async def test_a_stopped_call_stays_stopped(stored: Stored) -> None:
    store, _ = stored
    key = a_key()
    stopped = a_call(key, outcome=Blocked(verdict_id="verdict_9", rules=("a", "b"), bundle="law@1.0.0"))
    await store.record(stopped, token=Secret("token"))
    assert await store.claim(key, HASH) == stopped


async def test_a_settlement_is_marked_once_and_by_its_own_hold(stored: Stored) -> None:
    store, _ = stored
    key = a_key()
    await store.record(a_call(key), token=Secret("token"))
    await store.mark_settled([Settlement(key=key, hold_id="hold_other", charged=NanoUsd(1))])
    assert (await store.claim(key, HASH)) == a_call(key)
    await store.mark_settled([Settlement(key=key, hold_id="hold_1", charged=NanoUsd(15))])
    await store.mark_settled([Settlement(key=key, hold_id="hold_1", charged=None)])
    assert await store.claim(key, HASH) == a_call(key, settle_state=SettleState.SETTLED, charged=15)


UNJUDGED = Unjudged(draft=ANSWER, target="gpt-test")


async def test_an_unjudged_outcome_is_judged_once_and_its_money_is_left_alone(stored: Stored) -> None:
    store, _ = stored
    key = a_key()
    await store.record(a_call(key, outcome=UNJUDGED), token=Secret("token"))
    assert await store.claim(key, HASH) == a_call(key, outcome=UNJUDGED)
    await store.mark_settled([Settlement(key=key, hold_id="hold_1", charged=NanoUsd(15))])
    settled = {"settle_state": SettleState.SETTLED, "charged": 15}
    assert (await store.judge(a_call(key))).outcome == ANSWER
    other = Blocked(verdict_id="verdict_9", rules=("words",), bundle="words@1.0.0")
    assert await store.judge(a_call(key, outcome=other)) == a_call(key, **settled), "the first judgement stands"
    assert await store.claim(key, HASH) == a_call(key, **settled)


async def test_a_judged_outcome_of_another_hold_is_not_replaced(stored: Stored) -> None:
    store, _ = stored
    key = a_key()
    await store.record(a_call(key, outcome=UNJUDGED), token=Secret("token"))
    assert (await store.judge(a_call(key, hold_id="hold_2"))).outcome == UNJUDGED


async def test_settlements_of_many_tenants_are_marked_together(stored: Stored) -> None:
    store, _ = stored
    keys = [a_key() for _ in range(3)]
    for key in keys:
        await store.record(a_call(key), token=Secret("token"))
    charges = (NanoUsd(0), None, NanoUsd(7))
    await store.mark_settled(
        [Settlement(key=key, hold_id="hold_1", charged=charged) for key, charged in zip(keys, charges, strict=True)]
    )
    states = [SettleState.SETTLED, SettleState.LAPSED, SettleState.SETTLED]
    for key, charged, state in zip(keys, charges, states, strict=True):
        assert await store.claim(key, HASH) == a_call(key, settle_state=state, charged=charged)


async def test_what_is_pending_is_found_over_all_tenants_oldest_first(stored: Stored) -> None:
    store, clock = stored
    keys = [a_key(path=f"p{number}") for number in range(3)]
    for key in keys:
        await store.record(a_call(key), token=Secret(f"token of {key.call_id.path}"))
        if isinstance(clock, FakeClock):
            clock.advance(seconds=1)
    await store.record(a_call(a_key(), settle_state=SettleState.ASSUMED), token=Secret("token"))
    await store.mark_settled([Settlement(key=keys[1], hold_id="hold_1", charged=NanoUsd(15))])
    later = clock.now() + timedelta(seconds=1)
    found = await store.pending(before=later, most=10)
    assert [(one.key, one.token.reveal(), one.usage) for one in found] == [
        (keys[0], "token of p0", ANSWER.usage),
        (keys[2], "token of p2", ANSWER.usage),
    ]
    assert len(await store.pending(before=later, most=1)) == 1
    assert not await store.pending(before=clock.now() - timedelta(hours=1), most=10)


async def test_old_calls_are_forgotten_but_not_pending_ones(stored: Stored) -> None:
    store, clock = stored
    old, pending = a_key(path="old"), a_key(path="pending")
    await store.record(a_call(old, settle_state=SettleState.ASSUMED), token=Secret("token"))
    await store.record(a_call(pending), token=Secret("token"))
    assert await store.forget_expired(before=clock.now() - timedelta(hours=1), most=10) == 0
    assert await store.forget_expired(before=clock.now() + timedelta(seconds=1), most=10) == 1
    assert await store.claim(old, b"new" * 10) == Claimed()
    assert isinstance(await store.claim(pending, HASH), RecordedCall)


DAY, MONTH = timedelta(days=1), timedelta(days=30)


async def keeps(store: CallStore, key: CallKey) -> bool:
    """Says whether a repeat of a recorded call gets its answer; one that would not is given back."""
    found = await store.claim(key, HASH)
    if isinstance(found, Claimed):
        await store.give_back(key)
    return isinstance(found, RecordedCall)


@pytest_asyncio.fixture(params=["memory", "postgres"], loop_scope="module")
async def retaining(request: Any, urls: DatabaseUrls, tmp_path: Path) -> AsyncIterator[tuple[CallStore, FakeClock]]:
    """Gives a store that keeps unacknowledged calls of runs for a month, others for a day, and a clock at its time."""
    clock = FakeClock(start=datetime.now(UTC))
    if request.param == "memory":
        memory = MemoryCallStore(clock)
        memory.unacknowledged = MONTH - DAY
        yield memory, clock
        return
    async with postgres_store(urls, tmp_path, unacknowledged=MONTH - DAY) as store:
        yield store, clock


async def test_an_answer_to_a_run_is_kept_until_a_day_after_it_is_acknowledged(
    retaining: tuple[CallStore, FakeClock],
) -> None:
    store, clock = retaining
    told, untold, direct, others = a_key(path="told"), a_key(path="untold"), a_key(run_id="idem_1"), a_key(path="told")
    for key in (told, untold, direct, others):
        await store.record(a_call(key, settle_state=SettleState.ASSUMED), token=Secret("token"))
    await store.acknowledge([told])
    await store.acknowledge([a_key(told.tenant, path="unknown"), told])

    async def left(after: timedelta) -> list[bool]:
        await store.forget_expired(before=clock.now() + after - DAY, most=100)
        return [await keeps(store, key) for key in (told, untold, direct, others)]

    minute = timedelta(minutes=1)
    assert await left(DAY - minute) == [True, True, True, True]
    assert await left(DAY + minute) == [False, True, False, True]
    assert await left(MONTH - minute) == [False, True, False, True]
    assert await left(MONTH + minute) == [False, False, False, False]


async def test_what_is_acknowledged_is_kept_while_its_settlement_is_pending(stored: Stored) -> None:
    store, clock = stored
    key = a_key()
    await store.record(a_call(key), token=Secret("token"))
    await store.acknowledge([key])
    await store.forget_expired(before=clock.now() + DAY, most=10)
    assert await keeps(store, key)
    await store.mark_settled([Settlement(key=key, hold_id="hold_1", charged=NanoUsd(15))])
    await store.forget_expired(before=clock.now() + DAY, most=10)
    assert not await keeps(store, key)


async def test_a_token_whose_key_was_destroyed_does_not_hold_up_the_others(urls: DatabaseUrls, tmp_path: Path) -> None:
    async with postgres_store(urls, tmp_path) as store, sql_engine(urls.maintenance, pool_size=1) as maintenance:
        gone, other = a_key(), a_key()
        for key in (gone, other):
            await store.record(a_call(key), token=Secret("token"))
        await TenantRows("inference", maintenance, TENANT_DATA).destroy_keys(gone.tenant)
    async with postgres_store(urls, tmp_path) as store:
        found = await store.pending(before=SystemClock().now() + timedelta(seconds=1), most=10)
        assert {one.key: one.token.reveal() for one in found} == {gone: "", other: "token"}


async def test_the_role_of_requests_sees_one_tenant(urls: DatabaseUrls, tmp_path: Path) -> None:
    async with postgres_store(urls, tmp_path) as store:
        key = a_key()
        await store.record(a_call(key), token=Secret("token"))
    async with sql_engine(urls.app, pool_size=1) as app:
        for tenant, rows in ((key.tenant, 1), (TenantId(uuid4()), 0)):
            async with tenant_scope(app, tenant) as scope:
                count = await scope.execute(text("SELECT count(*) FROM call WHERE tenant_id = :t"), {"t": key.tenant})
                assert count.scalar_one() == rows


async def test_every_table_is_guarded(urls: DatabaseUrls) -> None:
    async with sql_engine(urls.migrator) as engine, engine.connect() as connection:
        guards = await audit_catalogue(connection)
    assert {guard.name: guard.faults for guard in guards if guard.faults} == {}
    untenanted = [guard.name for guard in guards if guard.untenanted]
    assert untenanted == ["audit_stream", "registry_change", "registry_version", "schema_version_inference"]


async def test_the_tables_are_what_the_migrations_make_and_migrations_go_back(make_database: MakeDatabase) -> None:
    made = await make_database("inference")
    await migrate("services.inference", made.migrator)
    (described,) = {rows.metadata for rows in (tables, batch_tables, registry_tables, rollout_tables, routing_tables)}
    assert await drift("services.inference", made.migrator, described) == []
    await migrate("services.inference", made.migrator, to="base", back=True)
    await migrate("services.inference", made.migrator)


async def test_every_change_of_the_registry_is_noted_with_a_number_of_its_own(urls: DatabaseUrls) -> None:
    tenant = TenantId(uuid4())
    async with sql_engine(urls.app, pool_size=1) as app:
        for statement in (
            "INSERT INTO model_route (tenant_id, name, spec, revision) VALUES (:tenant, 'writer', '{}', 1)",
            "UPDATE model_route SET revision = 2 WHERE tenant_id = :tenant",
            "DELETE FROM model_route WHERE tenant_id = :tenant",
        ):
            async with tenant_scope(app, tenant) as scope:
                await scope.execute(text(statement), {"tenant": tenant})
                await scope.commit()
    async with sql_engine(urls.maintenance, pool_size=1) as maintenance, maintenance_scope(maintenance) as scope:
        noted = (await scope.execute(text("SELECT * FROM registry_change ORDER BY version"))).all()
        last = (await scope.execute(text("SELECT version FROM registry_version"))).scalar_one()
    assert [(row.noun, row.about, row.changed_tenant) for row in noted] == [("route", "writer", tenant)] * 3
    assert [row.version for row in noted] == [last - 2, last - 1, last]
