"""Opens what seals the payloads of a service: its key ring, and the background that keeps its keys well wrapped."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import IdSource
from services.meshkit.core.tenant import KnowsTenants, TenantState
from services.meshkit.crypto.key_service import key_wrapper
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.crypto.ports import KeyWrapper
from services.meshkit.crypto.rewrap import Rewrap
from services.meshkit.settings import ServiceSettings
from services.meshkit.sql.data_keys import SqlDataKeys, SqlWrappedKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealing:
    """What seals, and what a server must run beside it."""

    keys: KeyRing
    #: What the keys themselves are sealed with.
    wrapper: KeyWrapper
    background: Sequence[Callable[[], Awaitable[None]]]


class FollowsTenants(KnowsTenants, Protocol):
    """What is known here of tenants, and tells what changed; the guard feed is one."""

    def changed(self, listener: Callable[[TenantId | None], None]) -> AbstractContextManager[None]:
        """Has `listener` called, within the block, when something changed for a tenant; None stands for all."""
        ...


@asynccontextmanager
async def sealing(
    settings: ServiceSettings,
    *,
    service: str,
    app: AsyncEngine,
    maintenance: AsyncEngine,
    tenants: FollowsTenants,
    clock: Clock,
    ids: IdSource,
) -> AsyncGenerator[Sealing]:
    """Gives the key ring of a service over its own table `data_key`; leaving the block closes the key service.

    Args:
        tenants: says who was erased. Some replica destroyed their keys in the table by then (`TenantRows.destroy_keys`,
            the one way in which keys end); each forgets those it has in memory.
    Raises: KekFileUnsafe, KeyServiceSettings.
    """
    async with key_wrapper(settings, clock=clock) as wrapper:
        keys = KeyRing(SqlDataKeys(app), wrapper, clock=clock, ids=ids)
        keys.show(service)
        with tenants.changed(ForgetErased(keys, tenants)):
            yield Sealing(
                keys=keys,
                wrapper=wrapper,
                background=(Rewrap(SqlWrappedKeys(maintenance), wrapper, service=service, clock=clock),),
            )


class ForgetErased:
    """Takes the keys of erased tenants out of memory, when the guard feed says that they are."""

    def __init__(self, keys: KeyRing, tenants: KnowsTenants) -> None:
        self._keys = keys
        self._tenants = tenants

    def __call__(self, changed: TenantId | None) -> None:
        """Hears that something changed for a tenant, None for all."""
        for tenant in self._keys.tenants() if changed is None else (changed,):
            known = self._tenants.tenant(tenant)
            if known is not None and known.state is TenantState.DELETED:
                self._keys.forget(tenant)
