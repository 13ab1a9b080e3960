"""Follows the changes that all replicas make to the registry."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

from services.inference.domain.deployment import DeploymentVersion
from services.inference.domain.errors import ProviderUnavailable
from services.inference.usecases.observe_rollouts import ObserveRollouts
from services.inference.usecases.registry import MemoryRegistry
from services.inference.usecases.registry_ports import Keys, RegistryFeed, RegistryState, RegistryWork
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.core.secret import NO_SECRET, Secret
from services.meshkit.telemetry.logs import logger

#: A database that was heard so lately is there.
_HEARD_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.25
_FORGET_SECONDS: Final = 900.0

log = logger(__name__)


class RegistryNews:
    """Background work: looks for changes every quarter of a second, and puts them into the registry in memory.

    While the database is away, calls go on by what was known last.
    """

    def __init__(self, feed: RegistryFeed, registry: MemoryRegistry, observe: ObserveRollouts, *, clock: Clock) -> None:
        self._feed = feed
        self._registry = registry
        self._observe = observe
        self._clock = clock
        #: None before the first look.
        self._version: int | None = None
        #: All that is known, as of the last change; None while nothing is.
        self._state: RegistryState | None = None
        self._keys_of: dict[TenantId, Keys] = {}
        #: The same for all tenants.
        self._keys: dict[tuple[str, int], Secret | None] = {}
        #: Whose keys could not all be opened.
        self._shut: frozenset[TenantId] = frozenset()
        #: One look at a time: what an earlier one has read must not come after what a later one has.
        self._looking = asyncio.Lock()

    def key(self, version: DeploymentVersion) -> Secret:
        """Gives the key that a registered version is asked with. Raises: ProviderUnavailable: it is not open yet."""
        key = self._keys.get((version.deployment_id, version.version), NO_SECRET)
        if key is None:
            raise ProviderUnavailable("its key cannot be opened right now", deployment=version.name)
        return key

    @property
    def state(self) -> RegistryState | None:
        """All that is known: the same object until something changes. None: nothing is known yet."""
        return self._state

    @property
    def heard_seconds_ago(self) -> float | None:
        """How long ago the database was heard. None: not since this process began."""
        return None if self._version is None else self._registry.age

    @property
    def heard(self) -> bool:
        """True while the database is there: what is not known then is not there."""
        ago = self.heard_seconds_ago
        return ago is not None and ago < _HEARD_SECONDS

    def recall(self, state: RegistryState) -> None:
        """Goes by what an earlier process knew, until the first look."""
        self._put(state)

    async def __call__(self) -> None:
        """Follows until cancelled."""
        away = False
        forgot = self._clock.monotonic()
        while True:
            try:
                await self.look()
                if self._clock.monotonic() - forgot > _FORGET_SECONDS:
                    forgot = self._clock.monotonic()
                    await self._feed.forget_changes()
                away = False
            except MeshError as error:
                if not away:
                    log.warning("changes of models cannot be seen right now", error=error.message)
                away = True
            except Exception:
                # Such as a row that another release wrote: calls go on by what was known, and so does all other work.
                if not away:
                    log.exception("changes of models cannot be read")
                away = True
            await self._clock.sleep(_POLL_SECONDS)

    async def look(self) -> None:
        """Takes in what changed since the last look. Raises: MeshError: the database is away."""
        async with self._looking:
            if self._version is None:
                self._take(await self._feed.whole())
            elif not self._shut and await self._feed.version() == self._version:
                self._registry.heard()
            else:
                self._take(await self._feed.since(self._version, also=self._shut))

    @asynccontextmanager
    async def changing(self, work: AbstractAsyncContextManager[RegistryWork]) -> AsyncGenerator[RegistryWork]:
        """Looks at once after a change is committed, so that whoever asks this replica next meets it."""
        async with work as entered:
            yield entered
        try:
            await self.look()
        except MeshError as error:
            log.warning("a change of models is seen later here", error=error.message)
        except Exception:
            # Committed all the same; `__call__` goes on looking.
            log.exception("a change of models cannot be read here")

    def _take(self, state: RegistryState) -> None:
        self._put(state)
        self._version = state.version

    def _put(self, state: RegistryState) -> None:
        # A key of a version never changes, so one that was open stays so.
        fresh: dict[TenantId, Keys] = {
            tenant: {
                name: self._keys.get(name) if key is None else key for name, key in state.keys.get(tenant, {}).items()
            }
            for tenant in state.holdings
        }
        self._keys_of = fresh if state.whole else {**self._keys_of, **fresh}
        self._keys = {name: key for keys in self._keys_of.values() for name, key in keys.items()}
        self._shut = frozenset(tenant for tenant, keys in self._keys_of.items() if None in keys.values())
        self._registry.take(state.holdings, whole=state.whole)
        self._observe.keep_only([rollout.id for _, rollout in self._registry.running()])
        self._state = RegistryState(
            version=state.version, whole=True, holdings=self._registry.holdings, keys=self._keys_of
        )
