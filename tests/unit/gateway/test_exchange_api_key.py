"""How long an answer about a key is remembered, and how many are."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from services.gateway.domain.api_key import ApiKey
from services.gateway.domain.grant import Grant, Standing
from services.gateway.domain.tenant import Tenant
from services.gateway.usecases.exchange_api_key import ExchangeApiKey
from services.meshkit.core.identity import Principal, Role, TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.core.key_secret import ApiKeyInvalid, KeySecrets, PresentedKey, SecretHash
from services.meshkit.core.tenant import TenantState
from services.meshkit.guard.errors import TenantSuspended
from services.meshkit.testing.fake_clock import FakeClock

SECRET = "f" * 64


TENANT = TenantId(UUID(int=1))


class Directory:
    """Keys in memory; counts the questions."""

    def __init__(self) -> None:
        self.keys: dict[UUID, ApiKey] = {}
        self.asked: Counter[UUID] = Counter()
        self.state = TenantState.ACTIVE

    async def key(self, key: UUID) -> tuple[ApiKey, TenantState] | None:
        self.asked[key] += 1
        found = self.keys.get(key)
        return None if found is None else (found, self.state)

    async def grant(self, grant: UUID) -> tuple[Grant, Standing, TenantState] | None:
        raise NotImplementedError

    async def tenant_named(self, name: str) -> Tenant | None:
        raise NotImplementedError


class Signer:
    """Writes what it would sign."""

    def sign(self, principal: Principal, *, life: timedelta, token_id: str, grant: str | None = None) -> str:
        return f"{principal.subject} for {life.total_seconds():.0f} s"


class Desk:
    """The use case with everything around it."""

    def __init__(self, *, remember: int = 100) -> None:
        self.clock, self.directory = FakeClock(), Directory()
        self.exchange = ExchangeApiKey(
            directory=self.directory,
            signer=Signer(),
            clock=self.clock,
            ids=SystemIds(),
            remember=remember,
            used=lambda tenant, key: self.used.append(key),
        )
        self.used: list[UUID] = []

    def add(self, number: int, *, life: timedelta | None = None) -> str:
        presented = PresentedKey(UUID(int=number), SECRET)
        self.directory.keys[presented.id] = ApiKey(
            id=presented.id,
            tenant=TENANT,
            display_name="a",
            roles=frozenset({Role.ADMIN}),
            secrets=KeySecrets(SecretHash.of(SECRET, salt=bytes(16))),
            create_time=self.clock.now(),
            expire_time=None if life is None else self.clock.now() + life,
        )
        return presented.text

    def revoke(self, number: int) -> None:
        key = self.directory.keys[UUID(int=number)]
        self.directory.keys[key.id] = replace(key, revoke_time=self.clock.now())


async def test_a_key_is_looked_up_once_in_five_seconds() -> None:
    desk = Desk()
    text = desk.add(1)
    first = await desk.exchange(text)
    desk.clock.advance(seconds=4.9)
    assert await desk.exchange(text) == first
    desk.clock.advance(seconds=0.2)
    assert (await desk.exchange(text)).expire_time > first.expire_time
    assert desk.directory.asked[UUID(int=1)] == 2


async def test_a_key_revoked_elsewhere_is_refused_after_five_seconds() -> None:
    desk = Desk()
    text = desk.add(1)
    await desk.exchange(text)
    desk.revoke(1)
    await desk.exchange(text)
    desk.clock.advance(seconds=5)
    with pytest.raises(ApiKeyInvalid):
        await desk.exchange(text)


@pytest.mark.parametrize("told", [TENANT, None])
async def test_a_key_revoked_here_is_refused_at_once(told: TenantId | None) -> None:
    desk = Desk()
    text = desk.add(1)
    await desk.exchange(text)
    desk.revoke(1)
    desk.exchange.forget(TenantId(UUID(int=2)))
    await desk.exchange(text)
    desk.exchange.forget(told)
    with pytest.raises(ApiKeyInvalid):
        await desk.exchange(text)


async def test_a_key_of_a_suspended_tenant_is_refused_and_a_wrong_secret_learns_nothing_of_it() -> None:
    desk = Desk()
    text = desk.add(1)
    desk.directory.state = TenantState.SUSPENDED
    with pytest.raises(TenantSuspended):
        await desk.exchange(text)
    with pytest.raises(ApiKeyInvalid):
        await desk.exchange(text[:-1] + "0")


async def test_every_use_of_a_key_is_told() -> None:
    desk = Desk()
    text = desk.add(1)
    await desk.exchange(text)
    await desk.exchange(text)
    assert desk.used == [UUID(int=1), UUID(int=1)]


async def test_the_secret_before_a_rotation_works_until_its_overlap_ends() -> None:
    desk = Desk()
    text = desk.add(1)
    key = desk.directory.keys[UUID(int=1)]
    until = desk.clock.now() + timedelta(seconds=60)
    new = SecretHash.of("n" * 64, salt=bytes(16))
    desk.directory.keys[key.id] = replace(key, secrets=KeySecrets(new, key.secrets.current, until))
    await desk.exchange(text)
    await desk.exchange(PresentedKey(key.id, "n" * 64).text)
    desk.clock.advance(seconds=60)
    with pytest.raises(ApiKeyInvalid):
        await desk.exchange(text)
    await desk.exchange(PresentedKey(key.id, "n" * 64).text)


async def test_a_key_that_expires_is_refused_to_the_second_though_it_is_remembered() -> None:
    desk = Desk()
    text = desk.add(1, life=timedelta(seconds=2))
    assert (await desk.exchange(text)).token.endswith("for 2 s")
    desk.clock.advance(seconds=2)
    with pytest.raises(ApiKeyInvalid):
        await desk.exchange(text)


async def test_no_more_keys_are_remembered_than_allowed() -> None:
    desk = Desk(remember=2)
    texts = [desk.add(number) for number in (1, 2, 3)]
    for text in texts:
        await desk.exchange(text)
    await desk.exchange(texts[2])
    await desk.exchange(texts[0])
    assert [desk.directory.asked[UUID(int=number)] for number in (1, 2, 3)] == [2, 1, 1]


async def test_a_wrong_secret_of_a_remembered_key_is_refused() -> None:
    desk = Desk()
    text = desk.add(1)
    await desk.exchange(text)
    with pytest.raises(ApiKeyInvalid):
        await desk.exchange(text[:-1] + "0")


async def test_a_wrong_key_is_looked_up_once_in_five_seconds() -> None:
    desk = Desk()
    wrong = desk.add(1)[:-1] + "0"
    for _ in range(3):
        with pytest.raises(ApiKeyInvalid):
            await desk.exchange(wrong)
    assert desk.directory.asked[UUID(int=1)] == 1
    desk.clock.advance(seconds=5)
    with pytest.raises(ApiKeyInvalid):
        await desk.exchange(wrong)
    assert desk.directory.asked[UUID(int=1)] == 2


async def test_what_was_wrong_is_looked_at_anew_when_something_changed() -> None:
    desk = Desk()
    text = PresentedKey(UUID(int=1), SECRET).text
    with pytest.raises(ApiKeyInvalid):
        await desk.exchange(text)
    desk.add(1)
    desk.exchange.forget(TENANT)
    await desk.exchange(text)


async def test_no_more_wrong_keys_are_remembered_than_allowed() -> None:
    desk = Desk(remember=2)
    for number in (1, 2, 3, 3, 1):
        with pytest.raises(ApiKeyInvalid):
            await desk.exchange(PresentedKey(UUID(int=number), SECRET).text)
    assert [desk.directory.asked[UUID(int=number)] for number in (1, 2, 3)] == [2, 1, 1]
