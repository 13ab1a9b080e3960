"""Keys of issuers: when they are fetched, and how seldom."""

import asyncio
from collections.abc import Callable
from uuid import UUID

import pytest

from services.gateway.clients.compact_jws import read_token
from services.gateway.clients.issuer_keys import IssuerKeys
from services.gateway.domain.user_errors import IssuerUnavailable, IssuerUnusable
from services.meshkit.core.identity import Role, TenantId
from services.meshkit.testing.fake_clock import FakeClock
from tests.support.issuers import ISSUER, OTHER_RSA, RSA, Web, a_web, an_issuer, claims, public, signed

KNOWN = read_token(signed(claims()))
NEW = read_token(signed(claims(), key=OTHER_RSA))


def issuer_keys(web: Web, clock: FakeClock, **changes: float) -> IssuerKeys:
    settings = {"fresh_seconds": 600.0, "outage_seconds": 86_400.0, **changes}
    return IssuerKeys(web, clock=clock, may_be_local="nobody", remember=2, **settings)  # type: ignore[arg-type]


def unknown(number: int) -> str:
    return signed(claims(), header={"alg": "RS256", "kid": f"flood-{number}"})


async def until(condition: Callable[[], bool]) -> None:
    """Lets others run until something is so."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # what it waits for has no bell
            await asyncio.sleep(0)


async def test_keys_are_fetched_once_while_they_are_fresh() -> None:
    clock, web = FakeClock(), a_web(RSA)
    keys = issuer_keys(web, clock)
    for _ in range(5):
        assert len(await keys.for_token([an_issuer()], KNOWN)) == 1
        clock.advance(seconds=100)
    assert web.key_set_fetches == 1
    clock.advance(seconds=100)
    await keys.for_token([an_issuer()], KNOWN)
    assert web.key_set_fetches == 2


async def test_a_new_key_is_found_at_once_and_a_withdrawn_one_is_forgotten() -> None:
    clock, web = FakeClock(), a_web(RSA)
    keys = issuer_keys(web, clock)
    await keys.for_token([an_issuer()], KNOWN)
    web.documents[f"{ISSUER}/jwks"] = public(OTHER_RSA)
    clock.advance(seconds=11)
    assert len(await keys.for_token([an_issuer()], NEW)) == 1
    assert await keys.for_token([an_issuer()], KNOWN) == []
    assert web.key_set_fetches == 2


async def test_a_flood_of_unknown_keys_fetches_once_in_ten_seconds() -> None:
    clock, web = FakeClock(), a_web(RSA)
    keys = issuer_keys(web, clock)
    for second in range(30):
        for number in range(100):
            assert await keys.for_token([an_issuer()], read_token(unknown(second * 100 + number))) == []
        assert len(await keys.for_token([an_issuer()], KNOWN)) == 1
        clock.advance(seconds=1)
    assert web.key_set_fetches == 3


async def test_many_at_once_wait_for_one_fetch() -> None:
    clock, web = FakeClock(), a_web(RSA)
    web.gate = asyncio.Event()
    keys = issuer_keys(web, clock)
    waiting = [asyncio.ensure_future(keys.for_token([an_issuer()], KNOWN)) for _ in range(50)]
    await asyncio.sleep(0)
    web.gate.set()
    assert all(len(found) == 1 for found in await asyncio.gather(*waiting))
    assert len(web.asked) == 2


async def test_the_last_good_keys_outlive_an_outage_of_a_day() -> None:
    clock, web = FakeClock(), a_web(RSA)
    keys = issuer_keys(web, clock)
    await keys.for_token([an_issuer()], KNOWN)
    web.down = True
    clock.advance(seconds=86_399)
    assert len(await keys.for_token([an_issuer()], KNOWN)) == 1
    clock.advance(seconds=1)
    with pytest.raises(IssuerUnavailable):
        await keys.for_token([an_issuer()], KNOWN)
    web.down = False
    clock.advance(seconds=10)
    assert len(await keys.for_token([an_issuer()], KNOWN)) == 1


async def test_an_issuer_that_was_never_reached_is_asked_once_in_ten_seconds() -> None:
    clock, web = FakeClock(), a_web(RSA)
    web.down = True
    keys = issuer_keys(web, clock)
    for _ in range(20):
        with pytest.raises(IssuerUnavailable):
            await keys.for_token([an_issuer()], KNOWN)
        clock.advance(seconds=1)
    assert len(web.asked) == 2


@pytest.mark.parametrize(
    ("discovery", "said"),
    [
        (None, "does not answer"),
        ({"issuer": "https://evil.example", "jwks_uri": f"{ISSUER}/jwks"}, "of another issuer"),
        ({"issuer": ISSUER}, "names no jwks_uri"),
        ({"issuer": ISSUER, "jwks_uri": ["x"]}, "names no jwks_uri"),
        ({"issuer": ISSUER, "jwks_uri": f"{ISSUER}/other"}, "does not answer"),
    ],
)
async def test_what_is_no_issuer_cannot_be_added(discovery: dict[str, object] | None, said: str) -> None:
    web = a_web(RSA)
    place = f"{ISSUER}/.well-known/openid-configuration"
    if discovery is None:
        del web.documents[place]
    else:
        web.documents[place] = discovery
    with pytest.raises(IssuerUnusable, match=said):
        await issuer_keys(web, FakeClock()).try_out(an_issuer())


async def test_an_issuer_without_a_usable_key_cannot_be_added() -> None:
    with pytest.raises(IssuerUnusable, match="no key for signatures"):
        await issuer_keys(a_web(), FakeClock()).try_out(an_issuer())


async def test_trying_an_issuer_again_and_again_asks_it_once_in_ten_seconds() -> None:
    clock, web = FakeClock(), a_web(RSA)
    keys = issuer_keys(web, clock)
    for _ in range(10):
        await keys.try_out(an_issuer())
    assert web.key_set_fetches == 1


async def test_an_issuer_that_fails_is_not_asked_anew_by_each_attempt_to_add_it() -> None:
    clock, web = FakeClock(), a_web(RSA)
    web.down = True
    keys = issuer_keys(web, clock)
    for _ in range(10):
        with pytest.raises(IssuerUnusable, match="does not answer"):
            await keys.try_out(an_issuer())
        clock.advance(seconds=0.9)
    assert len(web.asked) == 1
    web.down = False
    with pytest.raises(IssuerUnusable, match="try again in 10 s"):
        await keys.try_out(an_issuer())
    clock.advance(seconds=1)
    await keys.try_out(an_issuer())


async def test_an_issuer_whose_answer_nobody_waited_for_is_not_taken_for_good() -> None:
    web = a_web(RSA)
    web.gate = asyncio.Event()
    keys = issuer_keys(web, FakeClock())
    gone = asyncio.ensure_future(keys.try_out(an_issuer()))
    await until(lambda: len(web.asked) == 1)
    gone.cancel()
    await asyncio.wait([gone])
    with pytest.raises(IssuerUnusable, match="did not answer in time"):
        await keys.try_out(an_issuer())
    assert len(web.asked) == 1


async def test_issuers_of_one_tenant_that_hang_keep_nobody_else_waiting() -> None:
    web = a_web(RSA)
    web.gate = asyncio.Event()
    keys = IssuerKeys(web, clock=FakeClock(), may_be_local="nobody", fresh_seconds=600, outage_seconds=600)
    hanging = [
        asyncio.ensure_future(keys.try_out(an_issuer(issuer=f"https://{number}.example.com"))) for number in range(50)
    ]
    await until(lambda: len(web.asked) == 2)
    web.gate = None
    await keys.try_out(an_issuer(tenant=TenantId(UUID(int=2))))
    assert len(web.asked) == 2 + 2
    for one in hanging:
        one.cancel()
    await asyncio.wait(hanging)


async def test_issuers_that_are_none_push_out_no_keys() -> None:
    clock, web = FakeClock(), a_web(RSA)
    keys = issuer_keys(web, clock)
    await keys.for_token([an_issuer()], KNOWN)
    for number in range(5):
        with pytest.raises(IssuerUnusable):
            await keys.try_out(an_issuer(issuer=f"https://{number}.example.com"))
    await keys.for_token([an_issuer()], KNOWN)
    assert web.key_set_fetches == 1


async def test_only_what_an_operator_added_may_lie_in_a_private_network() -> None:
    web, by_admin = a_web(RSA), an_issuer(most_roles=frozenset({Role.ADMIN}))
    keys = IssuerKeys(web, clock=FakeClock(), may_be_local="operators", fresh_seconds=600, outage_seconds=600)
    await keys.try_out(an_issuer())
    assert len(web.local) == 2
    await keys.try_out(by_admin)
    await keys.for_token([by_admin], KNOWN)
    assert (len(web.asked), len(web.local)) == (4, 2)
    await keys.for_token([by_admin, an_issuer(client_id="another")], KNOWN)
    assert len(web.asked) == 4

    keys = IssuerKeys(web, clock=FakeClock(), may_be_local="everybody", fresh_seconds=600, outage_seconds=600)
    await keys.try_out(by_admin)
    assert (len(web.asked), len(web.local)) == (6, 4)


async def test_keys_may_lie_in_a_private_network_only_where_their_issuer_does() -> None:
    clock, web = FakeClock(), a_web(RSA)
    keys = IssuerKeys(web, clock=clock, may_be_local="operators", fresh_seconds=600, outage_seconds=600)
    await keys.try_out(an_issuer())
    assert web.local == web.asked

    web = a_web(RSA)
    elsewhere = "https://169.254.169.254/jwks"
    web.documents[f"{ISSUER}/.well-known/openid-configuration"]["jwks_uri"] = elsewhere
    web.documents[elsewhere] = public(RSA)
    keys = IssuerKeys(web, clock=clock, may_be_local="operators", fresh_seconds=600, outage_seconds=600)
    await keys.try_out(an_issuer())
    assert elsewhere not in web.local


async def test_as_many_issuers_are_remembered_as_there_is_room_for() -> None:
    clock, web = FakeClock(), a_web(RSA)
    for number in range(3):
        web.documents |= a_web(RSA, issuer=f"https://{number}.example.com").documents
    keys = issuer_keys(web, clock)
    for number in (0, 1, 0, 2, 0):
        await keys.for_token([an_issuer(issuer=f"https://{number}.example.com")], KNOWN)
    assert len(keys) == 2
    assert web.key_set_fetches == 3
