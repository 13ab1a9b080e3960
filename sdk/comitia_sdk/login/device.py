"""Sign-in on another device: a code is shown here and entered there.

Source: RFC 8628.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from comitia_sdk.errors import FailedPrecondition, MeshUnavailable, TimedOut, Unauthenticated
from comitia_sdk.login.provider import Provider, ProviderTokens, error_of, tokens_of
from comitia_sdk.login.web import ask

_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"
_DEFAULT_INTERVAL: Final = 5.0
_SLOWER: Final = 5.0
_LONGEST_INTERVAL: Final = 60.0
_LONGEST_WAIT: Final = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCode:
    """What the person has to know."""

    #: Page to open on any device.
    page: str
    #: Code to enter there.
    code: str
    #: The page with the code already entered; empty when the provider has none.
    whole_page: str
    #: How long the code is good, seconds.
    seconds: float


def sign_in(
    provider: Provider,
    client_id: str,
    *,
    show: Callable[[DeviceCode], None],
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> ProviderTokens:
    """Lets a person sign in on another device. Blocks until they have, or the code has run out.

    Raises: FailedPrecondition: the provider cannot do that. Unauthenticated: refused. TimedOut: the code ran out.
    """
    if not provider.device_authorization_endpoint:
        raise FailedPrecondition(
            f"{provider.issuer} has no sign-in for devices; sign in in the browser instead, without --device",
            reason="PROVIDER_UNUSABLE",
        )
    question = {"client_id": client_id, "scope": provider.scope}
    if provider.stays:
        question["prompt"] = "consent"
    status, said = ask(provider.device_authorization_endpoint, question)
    if status != 200:
        raise Unauthenticated(f"the provider says {error_of(said)}", reason="LOGIN_REFUSED")
    code, device_code, interval = _read(said)
    show(code)
    until = now() + code.seconds
    form = {"grant_type": _GRANT, "client_id": client_id, "device_code": device_code}
    while True:
        sleep(min(interval, max(0.0, until - now())))
        if now() >= until:
            raise TimedOut("nobody entered the code in time; try again", reason="LOGIN_TIMED_OUT")
        try:
            status, said = ask(provider.token_endpoint, form)
        except MeshUnavailable:
            interval = min(interval * 2, _LONGEST_INTERVAL)  # RFC 8628, 3.5: exponential on a lost connection
            continue
        if status == 200:
            return tokens_of(said)
        error = error_of(said)
        if error == "slow_down":
            interval = min(interval + _SLOWER, _LONGEST_INTERVAL)
        elif error == "expired_token":
            raise TimedOut("nobody entered the code in time; try again", reason="LOGIN_TIMED_OUT")
        elif error != "authorization_pending":
            raise Unauthenticated(f"the provider says {error}", reason="LOGIN_REFUSED")


def _read(said: dict[str, Any]) -> tuple[DeviceCode, str, float]:
    texts = [said.get(name) for name in ("verification_uri", "user_code", "device_code")]
    whole = said.get("verification_uri_complete")
    if not all(isinstance(text, str) and text for text in texts):
        raise FailedPrecondition("the provider gave no device code", reason="PROVIDER_UNUSABLE")
    page, code, device_code = (str(text) for text in texts)
    seconds, interval = said.get("expires_in"), said.get("interval")
    given = DeviceCode(
        page=page,
        code=code,
        whole_page=whole if isinstance(whole, str) else "",
        seconds=min(_positive(seconds, default=_LONGEST_WAIT), _LONGEST_WAIT),
    )
    return given, device_code, min(_positive(interval, default=_DEFAULT_INTERVAL), _LONGEST_INTERVAL)


def _positive(value: object, *, default: float) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        return float(value)
    return default
