"""What a provider says about itself, and what it gives to people who signed in.

Source: OpenID Connect Discovery 1.0; RFC 6749, sections 5 and 6.
"""

import base64
import json
from dataclasses import dataclass, field
from typing import Any, Final, cast

from comitia_sdk.errors import FailedPrecondition, Unauthenticated
from comitia_sdk.login.web import ask, check_address

_OFFLINE: Final = "offline_access"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """Where to sign in."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    #: Empty when the provider has no sign-in for devices.
    device_authorization_endpoint: str
    #: Asked for: who it is, the mail address, and where the provider has it, to stay signed in.
    scope: str

    @property
    def stays(self) -> bool:
        """True when the provider can be asked for a refresh token."""
        return _OFFLINE in self.scope.split()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderTokens:
    """What a sign-in gave."""

    id_token: str = field(repr=False)
    #: Empty when the provider gave none.
    refresh_token: str = field(default="", repr=False)


def discover(issuer: str) -> Provider:
    """Asks an issuer what it can do. Blocks. Raises: FailedPrecondition, MeshUnavailable."""
    status, said = ask(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
    if status != 200 or said.get("issuer") != issuer:
        raise FailedPrecondition(f"{issuer} is no OpenID Connect issuer", reason="PROVIDER_UNUSABLE")
    scopes = said.get("scopes_supported")
    offline = isinstance(scopes, list) and _OFFLINE in scopes
    places = {name: said.get(name) or "" for name in ("authorization_endpoint", "token_endpoint")}
    device = said.get("device_authorization_endpoint") or ""
    if not all(isinstance(place, str) and place for place in places.values()) or not isinstance(device, str):
        raise FailedPrecondition(f"{issuer} does not say where to sign in", reason="PROVIDER_UNUSABLE")
    for place in (*places.values(), *([device] if device else [])):
        check_address(place)
    return Provider(
        issuer=issuer,
        **places,
        device_authorization_endpoint=device,
        scope=f"openid email {_OFFLINE}" if offline else "openid email",
    )


def tokens_of(said: dict[str, Any], *, refresh_token: str = "") -> ProviderTokens:
    """Reads a provider's answer.

    Args:
        refresh_token: stays in use when the answer brings no other.
    Raises: Unauthenticated: there is no ID token in it.
    """
    id_token, newer = said.get("id_token"), said.get("refresh_token")
    if not isinstance(id_token, str) or not id_token:
        raise Unauthenticated("the provider gave no ID token; sign in again", reason="LOGIN_ENDED")
    return ProviderTokens(id_token=id_token, refresh_token=newer if isinstance(newer, str) else refresh_token)


def refresh(token_endpoint: str, *, client_id: str, refresh_token: str) -> ProviderTokens:
    """Gets a new ID token without the person. Blocks. Raises: Unauthenticated: the provider wants the person again."""
    form = {"grant_type": "refresh_token", "client_id": client_id, "refresh_token": refresh_token}
    status, said = ask(token_endpoint, form)
    if status != 200:
        raise Unauthenticated(f"the provider says {error_of(said)}; sign in again", reason="LOGIN_ENDED")
    return tokens_of(said, refresh_token=refresh_token)


def error_of(said: dict[str, Any]) -> str:
    """Gives the error that a provider names, fit for a terminal."""
    error = said.get("error")
    return error if isinstance(error, str) and error.isprintable() and len(error) <= 100 else "no"


def claims_of(id_token: str) -> dict[str, Any]:
    """Reads the claims of an ID token without verifying it, which the mesh does."""
    try:
        body = id_token.split(".")[1]
        value: object = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (ValueError, IndexError):
        return {}
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}
