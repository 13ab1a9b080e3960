"""An address that sends wrong keys has to wait; keys that work do not, wherever they come from."""

import asyncio
from uuid import UUID

import pytest

from services.gateway.usecases.key_gate import KeyGate
from services.gateway.usecases.wrong_keys import AGAIN, LOOKUP, TooManyWrongKeys, WrongKeys
from services.meshkit.core.errors import Unavailable
from services.meshkit.core.key_secret import ApiKeyInvalid, PresentedKey
from services.meshkit.core.tenant import TenantState
from services.meshkit.guard.errors import TenantSuspended
from services.meshkit.guard.feed import KnownKey
from services.meshkit.testing.fake_clock import FakeClock
from tests.unit.gateway.test_exchange_api_key import SECRET, TENANT, Desk

HERE, THERE = "192.0.2.1", "192.0.2.2"
#: Looked up at once from an address that was quiet.
BURST = 20


class Edge(Desk):
    """A desk behind a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.fed: dict[UUID, KnownKey] = {}
        self.wrong = WrongKeys(clock=self.clock)
        self.gate = KeyGate(self.exchange, heard_of=self.fed.get, wrong=self.wrong, clock=self.clock)

    @property
    def lookups(self) -> int:
        return self.directory.asked.total()

    def feed(self, number: int) -> None:
        """Has the gate hear of a key."""
        key = self.directory.keys[UUID(int=number)]
        self.fed[key.id] = KnownKey(tenant=TENANT, subject=key.subject, secrets=key.secrets, roles=key.roles)

    async def guess(self, number: int, *, address: str = HERE) -> type[Exception]:
        """Sends a key that is none; gives how it was refused."""
        with pytest.raises((ApiKeyInvalid, TooManyWrongKeys)) as refused:
            await self.gate(PresentedKey(UUID(int=number), SECRET).text, address=address)
        return refused.type

    async def guess_until_limited(self) -> None:
        number = 1_000
        while await self.guess(number) is ApiKeyInvalid:
            number += 1


async def test_guesses_are_looked_up_until_their_address_has_nothing_left() -> None:
    edge = Edge()
    refusals = [await edge.guess(number) for number in range(100)]
    assert refusals == [ApiKeyInvalid] * BURST + [TooManyWrongKeys] * (100 - BURST)
    assert edge.lookups == BURST
    assert await edge.guess(200, address=THERE) is ApiKeyInvalid
    edge.clock.advance(seconds=0.1)
    assert [await edge.guess(number) for number in (300, 301)] == [ApiKeyInvalid, TooManyWrongKeys]


async def test_guesses_at_the_same_time_are_counted_before_they_are_looked_up() -> None:
    edge = Edge()
    await asyncio.gather(*(edge.guess(number) for number in range(100)))
    assert edge.lookups == BURST


async def test_a_refusal_says_when_to_try_again() -> None:
    edge = Edge()
    await edge.guess_until_limited()
    with pytest.raises(TooManyWrongKeys) as refused:
        await edge.gate(PresentedKey(UUID(int=1), SECRET).text, address=HERE)
    assert refused.value.reason == "RATE_LIMITED"
    assert refused.value.seconds == pytest.approx(0.1)
    assert dict(refused.value.headers) == {
        "x-ratelimit-limit": "10",
        "x-ratelimit-remaining": "0",
        "x-ratelimit-reset": "1",
        "retry-after": "1",
    }
    assert "too many wrong API keys" in refused.value.message


async def test_a_key_that_works_costs_nothing_and_works_on_at_a_limited_address() -> None:
    edge = Edge()
    used, rested = edge.add(1), edge.add(2)
    edge.feed(2)
    for _ in range(1_000):
        await edge.gate(used, address=HERE)
    await edge.guess_until_limited()
    await edge.gate(used, address=HERE)
    await edge.gate(rested, address=HERE)
    edge.clock.advance(seconds=6)
    edge.feed(1)
    await edge.guess_until_limited()
    await edge.gate(used, address=HERE)


async def test_a_wrong_secret_of_a_key_that_works_is_a_guess() -> None:
    edge = Edge()
    text = edge.add(1)
    edge.feed(1)
    await edge.guess_until_limited()
    with pytest.raises(TooManyWrongKeys):
        await edge.gate(text[:-1] + "0", address=HERE)


async def test_new_keys_that_nobody_heard_of_cost_nothing_in_the_end() -> None:
    edge = Edge()
    for number in range(1, 3 * BURST):
        await edge.gate(edge.add(number), address=HERE)


async def test_what_is_no_fault_of_the_key_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    edge = Edge()
    text = edge.add(1)
    edge.directory.state = TenantState.SUSPENDED
    for _ in range(2 * BURST):
        with pytest.raises(TenantSuspended):
            await edge.gate(text, address=HERE)

    async def away(key: UUID) -> None:
        raise Unavailable("postgres")

    monkeypatch.setattr(edge.directory, "key", away)
    for _ in range(2 * BURST):
        with pytest.raises(Unavailable):
            await edge.gate(text, address=HERE)


async def test_a_wrong_key_that_is_sent_again_costs_a_tenth_and_no_lookup() -> None:
    edge = Edge()
    refusals = [await edge.guess(1) for _ in range(300)]
    assert refusals.count(ApiKeyInvalid) == 1 + (BURST - 1) * LOOKUP / AGAIN
    assert edge.lookups == 1


@pytest.mark.parametrize("text", ["", "nonsense", "ck_short", "ck_" + "z" * 26 + "_" + "f" * 64, "ck_\x00"])
async def test_what_cannot_be_a_key_is_never_looked_up_and_limited_too(text: str) -> None:
    edge = Edge()
    for _ in range(int(BURST * LOOKUP / AGAIN)):
        with pytest.raises(ApiKeyInvalid):
            await edge.gate(text, address=HERE)
    with pytest.raises(TooManyWrongKeys):
        await edge.gate(text, address=HERE)
    assert edge.lookups == 0


def test_no_more_addresses_are_remembered_than_allowed_and_the_quietest_goes_first() -> None:
    wrong = WrongKeys(clock=FakeClock(), most_addresses=2)
    for _ in range(BURST):
        wrong.charge("192.0.2.1", LOOKUP)
    wrong.charge("192.0.2.2", LOOKUP)
    with pytest.raises(TooManyWrongKeys):
        wrong.charge("192.0.2.1", LOOKUP)
    wrong.charge("192.0.2.3", LOOKUP)
    assert wrong.addresses == 2
    wrong.charge("192.0.2.1", LOOKUP)


def test_one_client_of_ipv6_is_one_address() -> None:
    wrong = WrongKeys(clock=FakeClock())
    for number in range(BURST):
        wrong.charge(f"2001:db8::{number:x}", LOOKUP)
    with pytest.raises(TooManyWrongKeys):
        wrong.charge("2001:db8::ffff:1", LOOKUP)
    wrong.charge("2001:db8:0:1::1", LOOKUP)


def test_what_is_given_back_never_makes_more_than_there_was() -> None:
    wrong = WrongKeys(clock=FakeClock())
    wrong.charge(HERE, AGAIN)
    wrong.refund(HERE, LOOKUP)
    wrong.refund(THERE, LOOKUP)
    for _ in range(BURST):
        wrong.charge(HERE, LOOKUP)
    with pytest.raises(TooManyWrongKeys):
        wrong.charge(HERE, LOOKUP)
