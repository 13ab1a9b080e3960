"""What a provider's misbehaviour means, mapped once for all dialects."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

import msgspec

from services.inference.domain.errors import (
    Charge,
    EgressRefused,
    ProviderFailure,
    ProviderRateLimited,
    ProviderRefused,
    ProviderUnavailable,
)
from services.meshkit.content import Usage

#: What a proxy on the way says when it gave up waiting: the model may have answered, and billed, behind it.
_GAVE_UP_WAITING: Final = frozenset({408, 502, 504, 522, 524})
#: A code or the name of a field: words of letters, and short numbers. A key, which has both in one word, is neither.
_SHORT: Final = re.compile(
    r"(?=.{1,64}$)(?:[A-Za-z]{1,32}|[0-9]{1,4})(?:[_.\[\]]{1,2}(?:[A-Za-z]{1,32}|[0-9]{1,4}))*\]?"
)
#: What an error inside a stream says in the place of a 429, in either dialect.
_ASKS_TO_WAIT: Final = ("rate_limit_error", "rate_limit_exceeded")
#: What reading what a provider sent may fail with; the second, where it is nested without end.
UNREADABLE: Final = (msgspec.MsgspecError, RecursionError)
_DEFAULT_WAIT: Final = timedelta(seconds=5)
#: A provider that answered, badly, is there: nobody gains by waiting before a repeat.
_HARDLY_A_WAIT: Final = timedelta(seconds=0.1)
_MOST_WAIT: Final = timedelta(hours=1)


class _Error(msgspec.Struct):
    type: str | None = None
    code: str | int | None = None
    param: str | None = None
    # llama.cpp says how long the prompt is and how much its window holds.
    n_prompt_tokens: int | None = None
    n_ctx: int | None = None


class _Body(msgspec.Struct):
    error: _Error


def status_failure(deployment: str, status: int, headers: Mapping[str, str], body: bytes) -> ProviderFailure:
    """Gives the failure that an HTTP status stands for.

    The provider's own sentence stays out, since it may repeat the key or the prompt; its short codes are kept.
    """
    said = {"status": str(status), **_codes(body)}
    detail = f" ({said['code']})" if "code" in said else ""
    if status == 429:
        return ProviderRateLimited(
            f"{deployment} asks to wait{detail}",
            retry_after=_retry_after(headers) or _DEFAULT_WAIT,
            deployment=deployment,
            said=said,
        )
    if status in (401, 403):
        return ProviderRefused(
            f"{deployment} refuses the key with status {status}{detail}; check the key",
            deployment=deployment,
            said=said,
        )
    if status == 400 and "over_by" in said:
        return ProviderRefused(
            f"the prompt has {said['tokens']} tokens, {said['over_by']} more than the window of {deployment} holds",
            deployment=deployment,
            said=said,
        )
    if 400 <= status < 500 and status not in (408, 409):
        return ProviderRefused(
            f"{deployment} refuses the request with status {status}{detail}", deployment=deployment, said=said
        )
    charge = Charge.UNKNOWN if status in _GAVE_UP_WAITING else Charge.NOTHING
    return ProviderUnavailable(
        f"{deployment} answers with status {status}{detail}",
        charge=charge,
        retry_after=_retry_after(headers) or _DEFAULT_WAIT,
        deployment=deployment,
        said=said,
    )


def error_event(deployment: str, body: bytes) -> ProviderFailure:
    """Gives the failure that an error inside a stream stands for."""
    said = _codes(body)
    detail = f" ({said['code']})" if "code" in said else ""
    if said.get("code") in _ASKS_TO_WAIT:
        return ProviderRateLimited(
            f"{deployment} broke off and asks to wait{detail}",
            charge=Charge.UNKNOWN,
            retry_after=_DEFAULT_WAIT,
            deployment=deployment,
            said=said,
        )
    return ProviderUnavailable(
        f"{deployment} broke off its answer{detail}",
        charge=Charge.UNKNOWN,
        retry_after=_HARDLY_A_WAIT,
        deployment=deployment,
        said=said,
    )


def cannot_be_told(deployment: str, field: str) -> ProviderFailure:
    """Nothing was sent: the prompt asks for something that this deployment's dialect has no words for."""
    message = f"{field}: {deployment} cannot be told it"
    return ProviderRefused(message, deployment=deployment, said={"field": field}, field=field)


def unreachable(deployment: str) -> ProviderFailure:
    """Nothing was sent: there was no connection."""
    return ProviderUnavailable(
        f"{deployment} cannot be reached", charge=Charge.NOTHING, retry_after=_DEFAULT_WAIT, deployment=deployment
    )


def egress_refused(deployment: str, host: str) -> ProviderFailure:
    """Nothing was sent, or nothing followed: the address is not one that this installation sends prompts to."""
    return EgressRefused(deployment, host=host)


def timed_out(deployment: str) -> ProviderFailure:
    """The answer was not whole in time."""
    return ProviderUnavailable(
        f"{deployment} did not answer in time", charge=Charge.UNKNOWN, retry_after=_DEFAULT_WAIT, deployment=deployment
    )


def cut_off(deployment: str) -> ProviderFailure:
    """The stream ended before the answer did."""
    return ProviderUnavailable(
        f"the answer of {deployment} broke off before its end",
        charge=Charge.UNKNOWN,
        retry_after=_HARDLY_A_WAIT,
        deployment=deployment,
    )


def garbage(deployment: str, *, usage: Usage | None = None) -> ProviderFailure:
    """What came is no answer in the dialect."""
    return ProviderUnavailable(
        f"{deployment} answered with something that is no answer",
        charge=usage or Charge.UNKNOWN,
        retry_after=_HARDLY_A_WAIT,
        deployment=deployment,
    )


def empty(deployment: str, *, usage: Usage | None) -> ProviderFailure:
    """The answer says nothing."""
    return ProviderUnavailable(
        f"{deployment} answered with nothing",
        charge=usage or Charge.UNKNOWN,
        retry_after=_HARDLY_A_WAIT,
        deployment=deployment,
    )


def _codes(body: bytes) -> dict[str, str]:
    """Reads the short code and the field at fault out of an error body, whatever its dialect; else nothing."""
    try:
        error = msgspec.json.decode(body, type=_Body).error
    except UNREADABLE:
        return {}
    code = str(error.code) if error.code is not None else error.type
    said: dict[str, str] = {}
    if code is not None and _SHORT.fullmatch(code):
        said["code"] = code
    if error.param is not None and _SHORT.fullmatch(error.param):
        said["param"] = error.param
    if error.n_prompt_tokens is not None and error.n_ctx is not None:
        said["tokens"], said["window"] = str(error.n_prompt_tokens), str(error.n_ctx)
        said["over_by"] = str(error.n_prompt_tokens - error.n_ctx)
    return said


def _retry_after(headers: Mapping[str, str]) -> timedelta | None:
    """Reads how long the provider asks to wait; dates are not used by the providers we know."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if seconds >= 0:
            return min(timedelta(seconds=seconds), _MOST_WAIT)
    return None
