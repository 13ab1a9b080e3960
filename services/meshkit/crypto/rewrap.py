"""Wraps data keys anew after the key-encryption key has changed. Payloads stay as they are."""

from typing import Final

from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.crypto.errors import SealBroken
from services.meshkit.crypto.keyring import data_key_context
from services.meshkit.crypto.ports import KeyWrapper, WrappedKey, WrappedKeys
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

#: Pause between two looks, seconds.
LOOK_SECONDS: Final = 30.0
_AT_ONCE: Final = 100

log = logger(__name__)


class Rewrap:
    """Looks every half minute for data keys that are not wrapped by the newest key-encryption key. A `Background`.

    Replicas may overlap: a key is replaced only while it is what was read, so a destroyed one stays destroyed.
    """

    def __init__(self, keys: WrappedKeys, wrapper: KeyWrapper, *, service: str, clock: Clock) -> None:
        self._keys = keys
        self._wrapper = wrapper
        self._clock = clock
        self._done = metrics.DATA_KEYS_REWRAPPED.labels(service)
        self._waiting = metrics.DATA_KEYS_WAITING.labels(service)

    async def __call__(self) -> None:
        """Works until cancelled."""
        while True:
            try:
                await self.sweep()
            except MeshError as error:
                log.warning("data keys are not wrapped anew", error=error.message)
            await self._clock.sleep(LOOK_SECONDS)

    async def sweep(self) -> int:
        """Wraps anew what must be; returns how many. What cannot be opened is logged, left, and still counted.

        Raises: KeyServiceAway, Unavailable: the rest is done at the next look.
        """
        mark = await self._wrapper.mark()
        waiting = await self._keys.count_otherwise(mark)
        self._waiting.set(waiting)
        done, after = 0, None
        while waiting and (batch := await self._keys.otherwise(mark, after=after, most=_AT_ONCE)):
            for key in batch:
                done += await self._rewrap(key)
            after = batch[-1]
            self._waiting.set(waiting - done)
        if done:
            log.info("data keys were wrapped anew", keys=done, left=waiting - done)
        return done

    async def _rewrap(self, key: WrappedKey) -> bool:
        context = data_key_context(key.tenant, key.id)
        try:
            raw = await self._wrapper.unwrap(key.wrapped, context=context)
        except SealBroken as error:
            log.error("a data key cannot be opened", tenant_id=str(key.tenant), key_id=str(key.id), why=error.message)
            return False
        replaced = await self._keys.replace(key, await self._wrapper.wrap(raw, context=context))
        if replaced:
            self._done.inc()
        return replaced
