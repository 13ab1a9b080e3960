"""Verifies ID tokens: signature, claims, and that an unknown tenant takes as long as a known one."""

from base64 import urlsafe_b64encode
from collections.abc import Sequence
from typing import Final

from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

from services.gateway.clients.compact_jws import IssuerKey, ReadToken, is_signed_by, read_token
from services.gateway.clients.issuer_keys import IssuerKeys
from services.gateway.domain.id_token import VerifiedLogin, claimed_issuer, judge
from services.gateway.domain.oidc_issuer import OidcIssuer
from services.gateway.domain.user_errors import LoginRefused
from services.meshkit.core.clock import Clock

_CURVES: Final = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
#: 2,048 bits that are nobody's key: 2**2047 + 1, base64url.
_NOBODYS_MODULUS: Final = urlsafe_b64encode((2**2047 + 1).to_bytes(256, "big")).rstrip(b"=").decode()


class IdTokenVerifier:
    """Implements `usecases.people_ports.IdTokens`."""

    def __init__(self, keys: IssuerKeys, *, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock
        #: Verified against where there is no key, so that the time does not tell. By algorithm, made when first needed.
        self._decoys: dict[str, IssuerKey] = {}

    async def verified(self, text: str, *, issuers: Sequence[OidcIssuer]) -> VerifiedLogin:
        """See `IdTokens.verified`."""
        token = read_token(text)
        claimed = claimed_issuer(token.claims)
        candidates = [issuer for issuer in issuers if issuer.issuer == claimed]
        keys = await self._keys.for_token(candidates, token) if candidates else []
        if not any(is_signed_by(token, key) for key in keys or [self._decoy(token)]):
            raise LoginRefused("no such issuer, no such key, or a wrong signature")
        if not keys:
            raise LoginRefused("signed by a key that nobody has")
        return judge(token.claims, issuers=candidates, now=self._clock.now())

    def _decoy(self, token: ReadToken) -> IssuerKey:
        known = self._decoys.get(token.algorithm)
        if known is None:
            known = self._decoys[token.algorithm] = IssuerKey(None, (token.algorithm,), _new_key(token.algorithm))
        return known


def _new_key(algorithm: str) -> Key:
    if algorithm in _CURVES:
        return ECKey.generate_key(_CURVES[algorithm], private=True)
    if algorithm in ("EdDSA", "Ed25519"):
        return OKPKey.generate_key("Ed25519", private=True)
    return RSAKey.import_key({"kty": "RSA", "n": _NOBODYS_MODULUS, "e": "AQAB"})
