"""Who stands behind a token or an API key."""

import asyncio
import re
from collections.abc import Callable
from hashlib import sha256
from typing import Final

from comitia_sdk.asgi.doors import IdentityDoors
from comitia_sdk.asgi.interface import Scope, values_of
from comitia_sdk.asgi.key_set import KeySet
from comitia_sdk.asgi.memory import Answer, Memory
from comitia_sdk.asgi.principal import Principal
from comitia_sdk.asgi.refusal import INVALID, MISSING, Refusal, Refused, refusal_of
from comitia_sdk.asgi.signed_token import MAX_TOKEN_CHARACTERS, NotValid, read_token
from comitia_sdk.credentials import MARGIN
from comitia_sdk.errors import ComitiaError, PermissionDenied, Unauthenticated

#: The mesh is asked again whether it still takes a caller, seconds. It hears of a revocation itself within one, so that
#: nobody is taken here 5 s after it.
_CONFIRMED_SECONDS: Final = 3.0
#: The mesh is not asked again about a key while it cannot answer, seconds.
_UNANSWERED_SECONDS: Final = 1.0
#: Callers, and keys that were refused, that are remembered.
_REMEMBERED: Final = 4096
#: Questions about callers that are with the mesh at one time.
_ASKED_AT_ONCE: Final = 64
_AUTHORIZATION: Final = re.compile(rb"bearer ([A-Za-z0-9_.\-]+)", re.IGNORECASE)
_API_KEY: Final = re.compile(r"ck_[0-9a-z]{26}_[0-9A-Za-z\-]{40,128}", re.ASCII)


def presented(scope: Scope) -> str:
    """Gives the one token or API key of a request, from `authorization` or `x-api-key`.

    Raises: Refused: there is none, or not exactly one.
    """
    sent = list(values_of(scope, b"authorization", b"x-api-key"))
    if not sent:
        raise Refused(MISSING)
    if len(sent) > 1 or len(sent[0]) > MAX_TOKEN_CHARACTERS + len("bearer "):
        raise Refused(INVALID)
    if next(values_of(scope, b"authorization"), None) is None:
        key = sent[0].decode("latin-1")
        if not _API_KEY.fullmatch(key):
            raise Refused(INVALID)
        return key
    bearer = _AUTHORIZATION.fullmatch(sent[0])
    if bearer is None:
        raise Refused(INVALID)
    return bearer[1].decode()


class Identities:
    """Tells who stands behind tokens and keys, and remembers it.

    An access token proves itself; while the mesh is away, one that was issued goes on being taken. An API key proves
    nothing by itself, so that without the mesh it is taken for as long as the mesh's last word about it holds.

    Args:
        doors: of the mesh.
        now: Unix time, seconds.
        monotonic: the clock, seconds.
    """

    def __init__(self, doors: IdentityDoors, *, now: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._doors = doors
        self._now = now
        self._monotonic = monotonic
        self._keys = KeySet(doors.key_set, monotonic=monotonic)
        self._known: Memory[Principal] = Memory(_REMEMBERED, monotonic=monotonic)
        self._refused: Memory[Refusal] = Memory(_REMEMBERED, monotonic=monotonic)
        self._seats = asyncio.Semaphore(_ASKED_AT_ONCE)

    async def behind(self, credential: str) -> Principal:
        """Gives the principal of an access token or API key. Raises: Refused."""
        digest = sha256(credential.encode()).digest()
        if credential.startswith("ck_"):
            return await self._known.get(digest, lambda last: self._behind_key(credential, digest, last))
        return await self._known.get(digest, lambda _last: self._behind_token(credential, digest))

    async def _behind_token(self, token: str, digest: bytes) -> Answer[Principal]:
        principal = await self._proven(token)
        refused = self._refused.fresh(digest)
        if refused is not None:
            raise Refused(refused.value)
        try:
            async with self._seats:
                await self._doors.confirm(token)
        except (Unauthenticated, PermissionDenied) as refusal:
            raise self._remembered(digest, refusal) from refusal
        except ComitiaError:  # the mesh cannot say; what it signed still holds
            pass
        return self._answer(principal)

    async def _behind_key(self, api_key: str, digest: bytes, last: Principal | None) -> Answer[Principal]:
        """Asks the mesh about a key: for a token of its own, or whether the key of the last one is still good."""
        if not _API_KEY.fullmatch(api_key):
            raise Refused(INVALID)
        refused = self._refused.fresh(digest)
        if refused is not None:
            raise Refused(refused.value)
        try:
            async with self._seats:
                if last is not None and self._now() < last.expires - MARGIN:
                    await self._doors.confirm(api_key)
                    return self._answer(last)
                token = await self._doors.for_api_key(api_key)
        except ComitiaError as refusal:
            raise self._remembered(digest, refusal) from refusal
        return self._answer(await self._proven(token.text))

    async def _proven(self, token: str) -> Principal:
        try:
            read = read_token(token)
            key = await self._keys.key(read.kid)
            if key is None:
                raise Refused(INVALID)
            return read.proven(key, now=self._now())
        except NotValid as error:
            raise Refused(INVALID) from error

    def _answer(self, principal: Principal) -> Answer[Principal]:
        left = max(0.0, principal.expires - self._now())
        return Answer(principal, self._monotonic() + min(_CONFIRMED_SECONDS, left))

    def _remembered(self, digest: bytes, error: ComitiaError) -> Refused:
        """Keeps what the mesh said, so that whoever repeats a bad key in a hurry asks it once."""
        final = isinstance(error, Unauthenticated | PermissionDenied)
        until = self._monotonic() + (_CONFIRMED_SECONDS if final else _UNANSWERED_SECONDS)
        self._refused.put(digest, Answer(refusal_of(error), until))
        return Refused(refusal_of(error))
