"""Tokens of the experiment: signed and checked by joserfc, EdDSA, with and without a bounded cache."""

import time
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from uuid import UUID

from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import OKPKey
from joserfc.jwt import JWTClaimsRegistry

# Envoy's jwt_authn knows this algorithm by its older name only, so we keep it.
warnings.filterwarnings("ignore", category=SecurityWarning)
ALGORITHM = "EdDSA"
CACHE_BOUND = 4096


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, as the verified token says."""

    tenant: UUID
    subject: str
    expires: float
    #: Passed on when a service calls a neighbour for this caller.
    token: str


class Unauthenticated(Exception):
    """The token is missing, wrong or expired."""


def sign(key: OKPKey, *, subject: str, tenant: str, audience: str, seconds: int) -> str:
    now = int(time.time())
    claims = {"iss": "comitia", "aud": audience, "sub": subject, "tenant": tenant, "roles": ["OPERATOR"]}
    return jwt.encode({"alg": ALGORITHM, "kid": "k1"}, claims | {"iat": now, "exp": now + seconds}, key, [ALGORITHM])


class TokenVerifier:
    """Checks signature, audience and expiry. With a cache, a token seen before costs a look-up and the expiry."""

    def __init__(self, key: OKPKey, audience: str) -> None:
        self._key = key
        self._claims = JWTClaimsRegistry(
            iss={"essential": True, "value": "comitia"},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
            sub={"essential": True},
        )
        self._seen: OrderedDict[str, Caller] = OrderedDict()
        self.cached = True

    def verify(self, token: str) -> Caller:
        caller = self._seen.get(token) if self.cached else None
        if caller is None:
            caller = self._check(token)
            if self.cached:
                self._remember(token, caller)
        else:
            self._seen.move_to_end(token)
        if caller.expires <= time.time():
            raise Unauthenticated("token has expired")
        return caller

    def _check(self, token: str) -> Caller:
        claims = jwt.decode(token, self._key, [ALGORITHM]).claims
        self._claims.validate(claims)
        return Caller(tenant=UUID(claims["tenant"]), subject=claims["sub"], expires=claims["exp"], token=token)

    def _remember(self, token: str, caller: Caller) -> None:
        self._seen[token] = caller
        if len(self._seen) > CACHE_BOUND:
            self._seen.popitem(last=False)
