"""Remembers when keys were used, and stores it now and then: never while a caller waits."""

from datetime import datetime
from typing import Final
from uuid import UUID

from services.gateway.usecases.identity_ports import KeyUseStore
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

_EVERY_SECONDS: Final = 10.0
#: Keys remembered at once; uses of more go unrecorded until the next writing, also while the database is away.
_MOST: Final = 50_000

log = logger(__name__)


class KeyUses:
    """Background work. What was not written when the process ends is lost: a few seconds of a time to the minute."""

    def __init__(self, store: KeyUseStore, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._used: dict[tuple[TenantId, UUID], datetime] = {}
        #: What is stored already, so that a busy key is written once a minute.
        self._written: dict[tuple[TenantId, UUID], datetime] = {}
        metrics.CACHE_ITEMS.labels("gateway.key_uses").set_function(lambda: len(self._used) + len(self._written))

    def used(self, tenant: TenantId, key: UUID) -> None:
        """Notes that a key was used now."""
        minute = self._clock.now().replace(second=0, microsecond=0)
        named = tenant, key
        if self._written.get(named) != minute and (named in self._used or len(self._used) < _MOST):
            self._used[named] = minute

    async def __call__(self) -> None:
        """Writes until cancelled."""
        while True:
            await self._clock.sleep(_EVERY_SECONDS)
            await self.write()

    async def write(self) -> None:
        """Stores what was noted since the last time; keeps it for the next when the database is away."""
        used, self._used = self._used, {}
        if not used:
            return
        try:
            await self._store.keep(used)
        except MeshError as error:
            log.warning("the last uses of keys cannot be stored right now", error=error.message)
            for named, minute in used.items():
                if len(self._used) < _MOST:
                    self._used.setdefault(named, minute)
            return
        self._written = used
