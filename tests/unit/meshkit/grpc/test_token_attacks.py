"""Every forged, stale or senseless token is refused as unauthenticated, in few words, and never breaks the verifier."""

from pathlib import Path

import pytest

from services.meshkit.core.clock import SystemClock
from services.meshkit.core.errors import Unauthenticated
from services.meshkit.grpc.identity import ISSUER, TokenVerifier
from services.meshkit.grpc.signed_token import KeySetFile, SigningKey, key_set
from tests.support.token_attacks import forged, senseless, signed

KEY = SigningKey.generate("access-1")
_NOW = SystemClock().now().timestamp()
CLAIMS = {
    "iss": ISSUER,
    "aud": "comitia",
    "sub": "key_test",
    "tenant": "01900000-0000-7000-8000-000000000001",
    "roles": ["admin"],
    "iat": int(_NOW) - 10,
    "exp": int(_NOW) + 3600,
    "jti": "test",
}
ATTACKS = {**forged(KEY, CLAIMS), **senseless(KEY, CLAIMS)}


@pytest.fixture
def verifier(tmp_path: Path) -> TokenVerifier:
    (tmp_path / "jwks").write_bytes(key_set([KEY]))
    return TokenVerifier(KeySetFile(tmp_path / "jwks", clock=SystemClock()), clock=SystemClock())


def test_the_token_that_they_are_made_of_is_good(verifier: TokenVerifier) -> None:
    header = {"alg": "EdDSA", "kid": KEY.kid, "typ": "JWT"}
    assert verifier.verify(signed(KEY, header, CLAIMS)).principal.subject == "key_test"
    assert verifier.verify(signed(KEY, header, {**CLAIMS, "aud": ["comitia", "other"]})).principal.roles == {"admin"}


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_attack_lets_anybody_in(verifier: TokenVerifier, attack: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        verifier.verify(ATTACKS[attack])
    assert refused.value.reason in {"TOKEN_INVALID", "TOKEN_EXPIRED", "TOKEN_NOT_FOR_US"}
    assert ATTACKS[attack][:40] not in refused.value.message
    assert verifier.remembered == 0
