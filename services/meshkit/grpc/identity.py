"""Who is calling: access tokens of tenants, assertions of services, and what both look like inside."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeGuard, cast
from uuid import UUID

from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Unauthenticated
from services.meshkit.core.identity import Principal, Role, TenantId
from services.meshkit.core.secret import Secret
from services.meshkit.grpc.signed_token import KeySetFile, SigningKey, verify
from services.meshkit.grpc.tls import MeshTls

ISSUER: Final = "comitia"
AUDIENCE: Final = "comitia"
MESH_AUDIENCE: Final = "comitia-mesh"
#: Longest life of a workload assertion, seconds.
WORKLOAD_SECONDS: Final = 300

#: Metadata keys on the wire.
AUTHORIZATION: Final = "authorization"
WORKLOAD: Final = "comitia-workload"

#: Clocks of two machines may differ by this much, seconds.
_LEEWAY_SECONDS: Final = 5.0
#: No token of ours names a later moment (the year 9999), Unix time.
_LAST_MOMENT: Final = 253_402_300_799
#: A verified token is trusted without another look for this long, seconds.
_REMEMBER_SECONDS: Final = 60.0


class TokenMissing(Unauthenticated):
    """The call carries no token. Send `authorization: Bearer <token>`; `comitia token` prints one."""

    reason = "TOKEN_MISSING"


class TokenExpired(Unauthenticated):
    """The token was good and is no longer. Get a new one."""

    reason = "TOKEN_EXPIRED"


class TokenForOthers(Unauthenticated):
    """The token is signed by us and not meant for this use: other issuer or audience, or claims are missing."""

    reason = "TOKEN_NOT_FOR_US"


class WorkloadRefused(Unauthenticated):
    """The assertion of the calling service cannot be verified."""

    reason = "WORKLOAD_INVALID"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedToken:
    """A principal and the life of its token."""

    principal: Principal
    #: Unix time, seconds.
    issued: float
    #: Unix time, seconds, leeway included.
    expires: float


class TokenVerifier:
    """Verifies access tokens. Remembers verified ones for a minute, at most `remember`, until the key set changes."""

    def __init__(self, keys: KeySetFile, *, clock: Clock, remember: int = 4096) -> None:
        self._keys = keys
        self._clock = clock
        self._remember = remember
        self._generation = keys.generation
        self._verified: dict[str, tuple[float, VerifiedToken]] = {}

    @property
    def remembered(self) -> int:
        """How many verified tokens are remembered."""
        return len(self._verified)

    def verify(self, token: str) -> VerifiedToken:
        """Gives what the token proves.

        Raises: TokenMalformed, TokenExpired, TokenForOthers.
        """
        now = self._clock.now().timestamp()
        self._keys.refresh()
        if self._generation != self._keys.generation:
            self._verified.clear()
            self._generation = self._keys.generation
        known = self._verified.get(token)
        if known is not None and now < known[0]:
            return known[1]
        self._verified.pop(token, None)
        _, claims = verify(token, self._keys)
        verified = _to_verified(token, claims, now=now)
        self._make_room(now)
        self._verified[token] = (min(verified.expires, now + _REMEMBER_SECONDS), verified)
        return verified

    def _make_room(self, now: float) -> None:
        """Drops what nobody trusts any more, as far as it came first: each run has tokens of its own, and runs end."""
        while self._verified:
            first = next(iter(self._verified))
            if len(self._verified) < self._remember and now < self._verified[first][0]:
                return
            del self._verified[first]


class TokenSigner:
    """Issues access tokens. Only the gateway has one."""

    def __init__(self, key: SigningKey, *, clock: Clock) -> None:
        self._key = key
        self._clock = clock

    def sign(self, principal: Principal, *, life: timedelta, token_id: str, grant: str | None = None) -> str:
        """Makes a token that proves `principal` for `life`."""
        now = int(self._clock.now().timestamp())
        claims: dict[str, object] = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": principal.subject,
            "tenant": str(principal.tenant),
            "roles": sorted(principal.roles),
            "iat": now,
            "exp": now + int(life.total_seconds()),
            "jti": token_id,
        }
        optional = {
            "project": principal.project,
            "run": principal.run_id,
            "key": principal.api_key,
            "email": principal.email,
            "roles_time": principal.roles_time,
            "secret_time": principal.secret_time,
            "grant": grant,
        }
        claims.update({name: value for name, value in optional.items() if value is not None})
        if principal.scopes is not None:
            claims["scopes"] = sorted(principal.scopes)
        return self._key.sign(claims)


class WorkloadSigner:
    """Signs the assertions by which this service proves its name to its neighbours.

    Args:
        tls: its certificate, which has to name the same service; None where services speak plain text.
    """

    def __init__(self, service: str, key: SigningKey, *, clock: Clock, tls: MeshTls | None = None) -> None:
        self.service = service
        self.tls = tls
        self._key = key
        self._clock = clock
        self._assertion = ""
        self._renew_at = 0.0

    def assertion(self) -> str:
        """Gives an assertion that is good for at least a minute; makes a new one when needed."""
        now = self._clock.now().timestamp()
        if now >= self._renew_at:
            claims = {"iss": self.service, "aud": MESH_AUDIENCE, "iat": int(now), "exp": int(now) + WORKLOAD_SECONDS}
            self._assertion = self._key.sign(claims)
            self._renew_at = now + WORKLOAD_SECONDS * 0.7
        return self._assertion


class WorkloadVerifier:
    """Verifies the assertions of neighbours. A service can only speak for itself: its key id is its name."""

    def __init__(self, keys: KeySetFile, *, clock: Clock, remember: int = 256) -> None:
        self._keys = keys
        self._clock = clock
        self._remember = remember
        self._generation = keys.generation
        self._verified: dict[str, tuple[float, str]] = {}

    def verify(self, assertion: str) -> str:
        """Gives the name of the service that made the assertion.

        Raises: WorkloadRefused.
        """
        now = self._clock.now().timestamp()
        self._keys.refresh()
        if self._generation != self._keys.generation:
            self._verified.clear()
            self._generation = self._keys.generation
        known = self._verified.get(assertion)
        if known is not None and now < known[0]:
            return known[1]
        self._verified.pop(assertion, None)
        try:
            kid, claims = verify(assertion, self._keys)
            issued, expires = _lifetime(claims, now=now)
        except Unauthenticated as error:
            raise WorkloadRefused(f"the workload assertion is refused: {error.message}") from error
        if claims.get("iss") != kid or not _meant_for(claims, MESH_AUDIENCE) or expires - issued > WORKLOAD_SECONDS:
            raise WorkloadRefused("the workload assertion is refused: issuer, audience or life is wrong")
        if len(self._verified) >= self._remember:
            del self._verified[next(iter(self._verified))]
        self._verified[assertion] = (expires + _LEEWAY_SECONDS, kid)
        return kid


def _to_verified(token: str, claims: dict[str, Any], *, now: float) -> VerifiedToken:
    issued, expires = _lifetime(claims, now=now)
    if claims.get("iss") != ISSUER or not _meant_for(claims, AUDIENCE):
        raise TokenForOthers("the token is not meant for this mesh")
    subject = claims.get("sub")
    tenant = claims.get("tenant")
    if not isinstance(subject, str) or not isinstance(tenant, str):
        raise TokenForOthers("the token names no tenant or no subject")
    try:
        tenant_id = TenantId(UUID(tenant))
    except ValueError as error:
        raise TokenForOthers("the token names no tenant") from error
    known_roles = {role.value for role in Role}
    principal = Principal(
        tenant=tenant_id,
        subject=subject,
        # A role that this release does not know grants nothing.
        roles=frozenset(Role(name) for name in _texts(claims, "roles") or () if name in known_roles),
        project=_text(claims, "project"),
        scopes=_texts(claims, "scopes"),
        run_id=_text(claims, "run"),
        api_key=_text(claims, "key"),
        email=_text(claims, "email"),
        roles_time=_moment(claims, "roles_time"),
        secret_time=_moment(claims, "secret_time"),
        token=Secret(token),
    )
    return VerifiedToken(principal=principal, issued=issued, expires=expires + _LEEWAY_SECONDS)


def _lifetime(claims: dict[str, Any], *, now: float) -> tuple[float, float]:
    issued, expires = claims.get("iat"), claims.get("exp")
    if not _is_time(issued) or not _is_time(expires):
        raise TokenForOthers("the token does not say when it was issued and when it ends")
    if now >= expires + _LEEWAY_SECONDS:
        raise TokenExpired("the token has expired; get a new one")
    if issued > now + _LEEWAY_SECONDS:
        raise TokenForOthers("the token is from the future; check the clocks")
    return float(issued), float(expires)


def _is_time(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _LAST_MOMENT


def _meant_for(claims: dict[str, Any], audience: str) -> bool:
    named = claims.get("aud")
    return named == audience or (isinstance(named, list) and audience in named)


def _text(claims: dict[str, Any], name: str) -> str | None:
    value = claims.get(name)
    if value is None or isinstance(value, str):
        return value
    raise TokenForOthers(f"the claim {name!r} of the token is no text", claim=name)


def _moment(claims: dict[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if not _is_time(value):
        raise TokenForOthers(f"the claim {name!r} of the token is no time", claim=name)
    return float(value)


def _texts(claims: dict[str, Any], name: str) -> frozenset[str] | None:
    value = claims.get(name)
    if value is None:
        return None
    if not isinstance(value, list):
        raise TokenForOthers(f"the claim {name!r} of the token is no list of texts", claim=name)
    items = cast(list[object], value)
    if not all(isinstance(item, str) for item in items):
        raise TokenForOthers(f"the claim {name!r} of the token is no list of texts", claim=name)
    return frozenset(cast(list[str], value))
