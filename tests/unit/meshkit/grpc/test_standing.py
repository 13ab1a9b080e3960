"""Streams end when their caller may no longer come in."""

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from uuid import UUID

import pytest

from services.meshkit.core.identity import Principal, Role, TenantId
from services.meshkit.grpc.identity import VerifiedToken
from services.meshkit.grpc.standing import WhileStanding
from services.meshkit.guard.errors import TokenRevoked

MINE, OTHER = TenantId(UUID(int=1)), TenantId(UUID(int=2))
VERIFIED = VerifiedToken(
    principal=Principal(tenant=MINE, subject="key_1", roles=frozenset({Role.ADMIN})), issued=0, expires=900
)


class Standing:
    """Refuses once `revoked`."""

    def __init__(self) -> None:
        self.revoked = False
        self.listeners: set[Callable[[TenantId | None], None]] = set()

    def check(self, verified: VerifiedToken) -> None:
        if self.revoked:
            raise TokenRevoked

    @contextmanager
    def changed(self, listener: Callable[[TenantId | None], None]) -> Generator[None]:
        self.listeners.add(listener)
        try:
            yield
        finally:
            self.listeners.discard(listener)

    def tell(self, tenant: TenantId | None) -> None:
        for listener in tuple(self.listeners):
            listener(tenant)


async def watching(standing: Standing) -> None:
    async with WhileStanding(standing, VERIFIED):
        await asyncio.Event().wait()


@pytest.mark.parametrize("told", [MINE, None])
async def test_a_revocation_ends_the_work_with_its_own_reason(told: TenantId | None) -> None:
    standing = Standing()
    task = asyncio.create_task(watching(standing))
    await asyncio.sleep(0)
    standing.revoked = True
    standing.tell(told)
    standing.tell(told)
    with pytest.raises(TokenRevoked):
        await task
    assert standing.listeners == set()


async def test_news_of_others_and_good_news_change_nothing() -> None:
    standing = Standing()
    task = asyncio.create_task(watching(standing))
    await asyncio.sleep(0)
    standing.tell(MINE)
    standing.revoked = True
    standing.tell(OTHER)
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_from_outside_stays_one() -> None:
    standing = Standing()
    task = asyncio.create_task(watching(standing))
    await asyncio.sleep(0)
    standing.revoked = True
    task.cancel()
    standing.tell(MINE)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_work_that_ends_by_itself_gives_its_answer() -> None:
    standing = Standing()
    async with WhileStanding(standing, VERIFIED):
        answer = 42
    assert answer == 42
    assert standing.listeners == set()
