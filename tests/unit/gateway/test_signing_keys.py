"""The line of signing keys: published first, signing later, gone once their last token has ended."""

from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.domain.identity_errors import RotationInProgress
from services.gateway.domain.signing_key import LONGEST_TOKEN_LIFE, SigningKeyLife, SigningKeyLine
from services.meshkit.testing.fake_clock import NOON

MINUTE = timedelta(minutes=1)


def a_line(*minutes: int) -> SigningKeyLine:
    return SigningKeyLine.of([SigningKeyLife(kid=f"key-{at}", sign_time=NOON + at * MINUTE) for at in minutes])


def kids(keys: tuple[SigningKeyLife, ...]) -> list[str]:
    return [key.kid for key in keys]


def test_a_new_key_is_known_before_it_signs() -> None:
    line = a_line(0, 30)
    before, after = NOON + 29 * MINUTE, NOON + 30 * MINUTE
    assert line.signer(before) == line.keys[0]
    assert kids(line.verifying(before)) == ["key-0", "key-30"]
    assert line.signer(after) == line.keys[1]
    assert kids(line.verifying(after)) == ["key-0", "key-30"]


def test_an_old_key_verifies_until_its_last_token_has_ended() -> None:
    line = a_line(0, 30)
    assert "key-0" in kids(line.verifying(NOON + 30 * MINUTE + LONGEST_TOKEN_LIFE))
    assert kids(line.verifying(NOON + 30 * MINUTE + LONGEST_TOKEN_LIFE + MINUTE)) == ["key-30"]
    assert line.forgettable(NOON + 60 * MINUTE) == ()
    assert kids(line.forgettable(NOON + timedelta(hours=27))) == ["key-0"]


def test_the_only_key_is_never_retired() -> None:
    line = a_line(0)
    years_later = NOON + timedelta(days=3_000)
    assert line.signer(years_later) == line.keys[0]
    assert kids(line.verifying(years_later)) == ["key-0"]
    assert line.forgettable(years_later) == ()


def test_a_rotation_waits_until_the_newest_key_signs() -> None:
    line = a_line(0, 30)
    with pytest.raises(RotationInProgress) as refused:
        line.check_rotation(NOON + 10 * MINUTE)
    assert refused.value.retry_after == 20 * MINUTE
    line.check_rotation(NOON + 30 * MINUTE)
    SigningKeyLine(()).check_rotation(NOON)


@given(
    signed_at=st.integers(0, 500),
    minutes=st.sets(st.integers(1, 500), max_size=8),
    age=st.integers(0, int(LONGEST_TOKEN_LIFE / MINUTE)),
)
def test_a_token_verifies_for_all_its_life_however_often_keys_are_rotated(
    signed_at: int, minutes: set[int], age: int
) -> None:
    line = a_line(0, *minutes)
    signer = line.signer(NOON + signed_at * MINUTE)
    assert signer is not None
    assert signer in line.verifying(NOON + (signed_at + age) * MINUTE)
    assert all(one.sign_time < two.sign_time for one, two in pairwise(line.keys))
