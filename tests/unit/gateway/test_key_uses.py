"""Uses of keys that cannot be written are kept, so many and no more."""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

import pytest
from prometheus_client import REGISTRY

from services.gateway.usecases import key_uses as module
from services.gateway.usecases.key_uses import KeyUses
from services.meshkit.core.errors import Unavailable
from services.meshkit.core.identity import TenantId
from services.meshkit.testing.fake_clock import FakeClock

TENANT = TenantId(UUID(int=1))


class Store:
    """Writes nothing while it is away."""

    def __init__(self) -> None:
        self.away = True
        self.kept: set[UUID] = set()

    async def keep(self, uses: Mapping[tuple[TenantId, UUID], datetime]) -> None:
        if self.away:
            raise Unavailable("postgres")
        self.kept |= {key for _, key in uses}


async def test_an_outage_of_the_database_takes_no_more_memory_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 10)
    store = Store()
    uses = KeyUses(store, clock=FakeClock())
    for number in range(5):
        for key in range(8):
            uses.used(TENANT, UUID(int=number * 8 + key))
        await uses.write()
    assert REGISTRY.get_sample_value("comitia_cache_items", {"cache": "gateway.key_uses"}) == 10
    store.away = False
    await uses.write()
    assert len(store.kept) == 10
    assert {UUID(int=key) for key in range(8)} <= store.kept, "what was noted first is written first"
