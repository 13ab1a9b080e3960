"""Keys, their secrets and grants: the rules, without a server."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.domain.api_key import ApiKey, KeyWish
from services.gateway.domain.errors import GrantInvalid, RoleNotHeld
from services.gateway.domain.grant import Grant, Standing
from services.meshkit.core.identity import Principal, Role, TenantId
from services.meshkit.core.key_secret import NO_SECRET, ApiKeyInvalid, KeySecrets, PresentedKey, SecretHash
from services.meshkit.core.permissions import permissions_of
from services.meshkit.testing.fake_clock import NOON

TENANT = TenantId(UUID(int=1))
RUN = UUID(int=77)
KEY = "key_00000000000000000000000005"


def a_key(**changes: object) -> ApiKey:
    key = ApiKey(
        id=UUID(int=5),
        tenant=TENANT,
        display_name="a key",
        roles=frozenset({Role.ADMIN}),
        secrets=KeySecrets(SecretHash.of("s" * 64, salt=b"salt" * 4)),
        create_time=NOON,
    )
    return replace(key, **changes)  # type: ignore[arg-type]


def a_grant(**changes: object) -> Grant:
    grant = Grant(
        id=UUID(int=9),
        tenant=TENANT,
        run=RUN,
        subject=KEY,
        roles=frozenset({Role.ADMIN, Role.TENANT_USER}),
        project="apollo",
        scopes=frozenset({"agents.read"}),
        create_time=NOON,
    )
    return replace(grant, **changes)  # type: ignore[arg-type]


def test_a_key_survives_being_written_and_read() -> None:
    key = PresentedKey(UUID(int=2**127 + 12345), "f" * 64)
    assert PresentedKey.parse(key.text) == key
    assert "f" * 64 not in repr(key)


@given(st.text(max_size=200))
def test_any_other_text_is_no_key(text: str) -> None:
    with pytest.raises(ApiKeyInvalid):
        PresentedKey.parse(text)


@pytest.mark.parametrize("first", ["8", "z"])
def test_an_id_beyond_128_bits_is_no_key(first: str) -> None:
    with pytest.raises(ApiKeyInvalid):
        PresentedKey.parse(f"ck_{first * 26}_{'f' * 64}")


def test_a_hash_fits_its_secret_only_and_salts_keep_equal_secrets_apart() -> None:
    one, two = SecretHash.of("s" * 64, salt=b"1" * 16), SecretHash.of("s" * 64, salt=b"2" * 16)
    assert one.fits("s" * 64)
    assert not one.fits("t" * 64)
    assert one.digest != two.digest
    assert not NO_SECRET.fits("")


def test_a_key_works_until_it_expires_or_is_revoked() -> None:
    later = NOON + timedelta(hours=1)
    assert a_key().works(later)
    assert a_key(expire_time=later).works(NOON)
    assert not a_key(expire_time=later).works(later)
    assert not a_key().revoked(NOON).works(NOON)
    assert a_key().revoked(NOON).revoked(later).revoke_time == NOON


def test_of_two_secrets_the_later_one_has_the_later_time_whatever_the_clocks_say() -> None:
    by = Principal(tenant=TENANT, subject="key_x", roles=frozenset({Role.ADMIN}))
    secret = SecretHash.of("t" * 64, salt=b"salt" * 4)
    key = a_key()
    times = [key.secret_time]
    for now in (NOON, NOON - timedelta(seconds=5), NOON + timedelta(seconds=5)):
        key = key.rotated(secret, by=by, now=now, overlap=timedelta())
        times.append(key.secret_time)
    assert times == sorted(set(times))
    assert key.principal().secret_time == times[-1].timestamp()


@given(
    st.sets(st.sampled_from(Role), min_size=1),
    st.lists(st.sampled_from(Role), min_size=1),
    st.none() | st.sets(st.sampled_from(sorted(permissions_of(Role)))),
)
def test_nobody_makes_a_key_that_may_more_than_they_may(
    held: set[Role], asked: list[Role], scopes: set[str] | None
) -> None:
    by = Principal(
        tenant=TENANT,
        subject="key_x",
        roles=frozenset(held),
        scopes=None if scopes is None else frozenset(scopes),
    )
    may = permissions_of(held) if scopes is None else permissions_of(held) & scopes
    wish = KeyWish(display_name="a", roles=tuple(asked), project=None, expire_time=None)
    try:
        wish.checked(by=by, now=NOON)
    except RoleNotHeld:
        assert not permissions_of(asked) <= may
    else:
        assert permissions_of(asked) <= may


def a_standing(**changes: object) -> Standing:
    return replace(Standing(subject=KEY, roles=frozenset({Role.ADMIN}), ended=False), **changes)  # type: ignore[arg-type]


def test_a_grant_gives_what_both_it_and_who_stands_behind_it_may() -> None:
    principal = a_grant().principal(a_standing(email="ann@example.com"), run=RUN, now=NOON)
    assert principal.roles == {Role.ADMIN}
    assert (principal.project, principal.scopes) == ("apollo", {"agents.read"})
    assert (principal.subject, principal.email) == (KEY, "ann@example.com")
    assert principal.run_id == "run_0000000000000000000000002d"


@pytest.mark.parametrize(
    ("grant", "standing", "run"),
    [
        (a_grant(revoke_time=NOON), a_standing(), RUN),
        (a_grant(), a_standing(), UUID(int=78)),
        (a_grant(), a_standing(subject="key_00000000000000000000000006"), RUN),
        (a_grant(), a_standing(subject="user_00000000000000000000000005"), RUN),
        (a_grant(), a_standing(ended=True), RUN),
        (a_grant(), a_standing(expire_time=NOON), RUN),
    ],
)
def test_a_grant_for_another_run_or_of_somebody_who_ended_gives_nothing(
    grant: Grant, standing: Standing, run: UUID
) -> None:
    with pytest.raises(GrantInvalid):
        grant.principal(standing, run=run, now=NOON)
