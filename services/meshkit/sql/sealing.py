"""Opens what seals the payloads of a service: its key ring, and the background that keeps its keys well wrapped."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource
from services.meshkit.crypto.key_service import key_wrapper
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.crypto.rewrap import Rewrap
from services.meshkit.settings import ServiceSettings
from services.meshkit.sql.data_keys import SqlDataKeys, SqlWrappedKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealing:
    """What seals, and what a server must run beside it."""

    keys: KeyRing
    background: Sequence[Callable[[], Awaitable[None]]]


@asynccontextmanager
async def sealing(
    settings: ServiceSettings, *, service: str, app: AsyncEngine, maintenance: AsyncEngine, clock: Clock, ids: IdSource
) -> AsyncGenerator[Sealing]:
    """Gives the key ring of a service over its own table `data_key`; leaving the block closes the key service.

    Raises: KekFileUnsafe, KeyServiceSettings.
    """
    async with key_wrapper(settings, clock=clock) as wrapper:
        yield Sealing(
            keys=KeyRing(SqlDataKeys(app), wrapper, clock=clock, ids=ids),
            background=(Rewrap(SqlWrappedKeys(maintenance), wrapper, service=service, clock=clock),),
        )
