"""A repeated request gets the first answer."""

import asyncio
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from services.meshkit.core.errors import RequestIdReused
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.request_ids import RequestKey, claim, forget_expired, keep
from services.meshkit.sql.scope import maintenance_scope, tenant_scope
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


async def test_callers_at_the_same_time_share_one_answer(engines: Engines) -> None:
    key = a_key()
    answers = await asyncio.gather(*(_ask(engines, key, b"body", b"%d" % number) for number in range(6)))
    assert len(set(answers)) == 1


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
