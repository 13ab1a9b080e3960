"""What an ID token must say before anybody is let in by it. Its signature is another matter.

Source: OpenID Connect Core 1.0, 3.1.3.7; RFC 7519; RFC 8725.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, cast

from services.gateway.domain.oidc_issuer import OidcIssuer
from services.gateway.domain.user import to_email
from services.gateway.domain.user_errors import LoginRefused
from services.meshkit.core.errors import Invalid

#: Clocks of the issuer and of this machine may differ by this much, seconds.
SKEW_SECONDS: Final = 60
#: Older ID tokens are refused, however long they claim to live, seconds.
MAX_AGE_SECONDS: Final = 24 * 3600
_MAX_SUBJECT: Final = 255

#: Claims are JSON that somebody else wrote.
Claims = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedLogin:
    """Who signed in, by the word of an issuer."""

    issuer: OidcIssuer
    #: Who it is at the issuer; never given to somebody else, as a mail address may be.
    subject: str
    #: Verified by the issuer, lower case.
    email: str


def claimed_issuer(claims: Claims) -> str:
    """Gives the issuer that the token says it is from, before anything is verified. Raises: LoginRefused."""
    issuer = claims.get("iss")
    if not isinstance(issuer, str):
        raise LoginRefused("iss is no text")
    return issuer


def judge(claims: Claims, *, issuers: Sequence[OidcIssuer], now: datetime) -> VerifiedLogin:
    """Says who signed in.

    Args:
        claims: of a token whose signature is good.
        issuers: the tenant's registrations with the issuer that signed it.
    Raises: LoginRefused.
    """
    issuer = _registration(claims, issuers)
    _check_times(claims, now.timestamp())
    if "events" in claims:
        raise LoginRefused("a log-out token")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 1 <= len(subject) <= _MAX_SUBJECT or "\x00" in subject:
        raise LoginRefused("sub is missing or no text")
    return VerifiedLogin(issuer=issuer, subject=subject, email=_email(claims))


def _registration(claims: Claims, issuers: Sequence[OidcIssuer]) -> OidcIssuer:
    audience: object = claims.get("aud")
    if isinstance(audience, str):
        named = [audience]
    elif isinstance(audience, list) and all(isinstance(one, str) for one in cast(list[object], audience)):
        named = cast(list[str], audience)
    else:
        raise LoginRefused("aud is missing or no text")
    party = claims.get("azp")
    if len(named) > 1 and party is None:
        raise LoginRefused("several audiences and no azp")
    for issuer in issuers:
        if issuer.issuer == claims.get("iss") and issuer.client_id in named and party in (None, issuer.client_id):
            return issuer
    raise LoginRefused("iss, aud or azp is not that of a registered issuer")


def _check_times(claims: Claims, now: float) -> None:
    issued, expires, earliest = (_time(claims, name) for name in ("iat", "exp", "nbf"))
    if issued is None or expires is None:
        raise LoginRefused("iat or exp is missing")
    if now >= expires + SKEW_SECONDS:
        raise LoginRefused("expired")
    if issued > now + SKEW_SECONDS or (earliest is not None and earliest > now + SKEW_SECONDS):
        raise LoginRefused("from the future")
    if issued < now - MAX_AGE_SECONDS - SKEW_SECONDS or expires <= issued:
        raise LoginRefused("issued too long ago, or expired before it was issued")


def _time(claims: Claims, name: str) -> float | None:
    if name not in claims:
        return None
    value: object = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise LoginRefused("a time is no number")
    try:
        seconds = float(value)
    except OverflowError as error:
        raise LoginRefused("a time is no number") from error
    if not math.isfinite(seconds):
        raise LoginRefused("a time is no number")
    return seconds


def _email(claims: Claims) -> str:
    email = claims.get("email")
    # `"true"` is no proof: OpenID Connect says JSON boolean.
    if not isinstance(email, str) or claims.get("email_verified") is not True:
        raise LoginRefused("no verified mail address")
    try:
        return to_email(email)
    except Invalid as error:
        raise LoginRefused("the mail address is none that we take") from error
