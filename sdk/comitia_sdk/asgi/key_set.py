"""The public keys that verify access tokens, fetched from the mesh when they are needed."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from comitia_sdk.asgi.refusal import UNAVAILABLE, Refused
from comitia_sdk.errors import ComitiaError

#: Fetched anew after this long, so that a key that the mesh withdrew is forgotten, seconds.
_HOLDS_SECONDS: Final = 60.0
#: And for a key that is not in it at most this often, whoever makes up ids of keys, seconds. A new key of the mesh is
#: published 30 s before it signs.
_PAUSE_SECONDS: Final = 10.0
#: As long as nothing was ever fetched, seconds.
_FIRST_PAUSE_SECONDS: Final = 1.0

log = logging.getLogger(__name__)


class KeySet:
    """The last good key set. One caller fetches at a time; the others go on with what is there.

    Args:
        fetch: asks the mesh; gives public keys by id, raises ComitiaError.
        monotonic: the clock, seconds.
    """

    def __init__(
        self, fetch: Callable[[], Awaitable[Mapping[str, Ed25519PublicKey]]], *, monotonic: Callable[[], float]
    ) -> None:
        self._fetch = fetch
        self._monotonic = monotonic
        self._keys: Mapping[str, Ed25519PublicKey] = {}
        self._fetched = float("-inf")
        self._tried = float("-inf")
        self._fetching = asyncio.Lock()

    async def key(self, kid: str) -> Ed25519PublicKey | None:
        """Gives the key of an id; None when the mesh has none of that id, as far as is known.

        Raises: Refused: no key set was ever fetched.
        """
        known = self._keys.get(kid)
        if known is None:
            async with self._fetching:
                if kid not in self._keys:
                    await self._refresh()
        elif self._monotonic() - self._fetched >= _HOLDS_SECONDS and not self._fetching.locked():
            async with self._fetching:
                await self._refresh()
        if not self._keys:
            raise Refused(UNAVAILABLE)
        return self._keys.get(kid)

    async def _refresh(self) -> None:
        now = self._monotonic()
        if now - self._tried < (_PAUSE_SECONDS if self._keys else _FIRST_PAUSE_SECONDS):
            return
        self._tried = now
        try:
            keys = await self._fetch()
        except ComitiaError as error:
            log.warning("the key set of the mesh cannot be fetched (%s); the last one stays in use", error.reason)
            return
        if keys:
            self._keys, self._fetched = keys, now
