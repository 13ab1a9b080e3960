"""A repeated request gets the first answer."""

import asyncio
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from services.meshkit.core.errors import RequestIdReused
from services.meshkit.core.identity import TenantId
from services.meshkit.core.once import RequestInProgress
from services.meshkit.sql.request_ids import ForgetRequests, RequestKey, claim, forget_expired, keep
from services.meshkit.sql.scope import driver_scope, maintenance_scope, tenant_scope
from services.meshkit.testing.fake_clock import FakeClock
from tests.integration.meshkit.sql.conftest import Engines

ANNA, BERT = TenantId(UUID(int=1)), TenantId(UUID(int=2))


def a_key(tenant: TenantId = ANNA, request_id: UUID | None = None) -> RequestKey:
    return RequestKey(
        tenant=tenant, method="comitia.tools.v1.ToolService/ApproveTool", request_id=request_id or uuid4()
    )


async def _ask(engines: Engines, key: RequestKey, body: bytes, answer: bytes, *, commit: bool = True) -> bytes:
    async with tenant_scope(engines.app, key.tenant) as scope:
        first = await claim(scope, key, body)
        if first is not None:
            return first
        await asyncio.sleep(0.01)
        await keep(scope, key, answer)
        if commit:
            await scope.commit()
    return answer


async def test_the_same_body_gets_the_first_answer(engines: Engines) -> None:
    key = a_key()
    assert await _ask(engines, key, b"body", b"first") == b"first"
    assert await _ask(engines, key, b"body", b"second") == b"first"


async def test_another_body_is_a_conflict(engines: Engines) -> None:
    key = a_key()
    await _ask(engines, key, b"body", b"first")
    with pytest.raises(RequestIdReused):
        await _ask(engines, key, b"other", b"second")


async def test_of_callers_at_the_same_time_one_works_and_the_others_are_told_at_once(engines: Engines) -> None:
    key = a_key()
    answers = await asyncio.gather(
        *(_ask(engines, key, b"body", b"%d" % number) for number in range(6)), return_exceptions=True
    )
    told = [answer for answer in answers if isinstance(answer, RequestInProgress)]
    worked = {answer for answer in answers if isinstance(answer, bytes)}
    assert (len(worked), len(told) > 0) == (1, True)
    assert all(answer.retry_after for answer in told)
    assert await _ask(engines, key, b"body", b"later") in worked


async def test_whoever_comes_while_the_first_is_at_work_does_not_wait(engines: Engines) -> None:
    key = a_key()
    async with tenant_scope(engines.app, ANNA) as first:
        assert await claim(first, key, b"body") is None
        async with driver_scope(engines.app, ANNA) as second, asyncio.timeout(10):
            with pytest.raises(RequestInProgress):
                await claim(second, key, b"body")
        await keep(first, key, b"first")
        await first.commit()
    async with driver_scope(engines.app, ANNA) as later:
        assert await claim(later, key, b"body") == b"first"


async def test_the_background_forgets_what_is_past_its_time(engines: Engines) -> None:
    keys = [a_key(tenant) for tenant in (ANNA, BERT)]
    for key in keys:
        await _ask(engines, key, b"body", b"first")
    async with tenant_scope(engines.app, ANNA) as scope:
        await scope.execute(text("UPDATE request_id SET expire_time = now() - interval '1 s'"))
        await scope.commit()
    assert await ForgetRequests(engines.maintenance, clock=FakeClock()).sweep() == 1
    assert await _ask(engines, keys[1], b"body", b"second") == b"first"


async def test_work_that_rolled_back_may_be_tried_again(engines: Engines) -> None:
    key = a_key()
    await _ask(engines, key, b"body", b"lost", commit=False)
    assert await _ask(engines, key, b"body", b"second") == b"second"


async def test_tenants_and_methods_do_not_meet(engines: Engines) -> None:
    same = uuid4()
    assert await _ask(engines, a_key(ANNA, same), b"body", b"anna") == b"anna"
    assert await _ask(engines, a_key(BERT, same), b"other", b"bert") == b"bert"


async def test_after_a_day_the_id_is_free_again(engines: Engines) -> None:
    key = a_key()
    await _ask(engines, key, b"body", b"first")
    async with tenant_scope(engines.app, ANNA) as scope:
        await scope.execute(text("UPDATE request_id SET expire_time = now() - interval '1 s'"))
        await scope.commit()
    assert await _ask(engines, key, b"other", b"second") == b"second"
    async with tenant_scope(engines.app, ANNA) as scope:
        await scope.execute(text("UPDATE request_id SET expire_time = now() - interval '1 s'"))
        await scope.commit()
    async with maintenance_scope(engines.maintenance) as scope:
        assert await forget_expired(scope) == 1
        await scope.commit()
