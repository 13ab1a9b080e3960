"""What is refused leaves nothing behind, such as a grant to act for its caller."""

from typing import Any

import pytest

from services.inference.domain.batch_job import MOST_OPEN_BATCHES
from services.inference.domain.errors import TooManyBatches
from services.inference.domain.registry import Holdings
from services.inference.usecases.batches import AskedItem, CreateBatch
from services.meshkit.core.identity import Caller
from services.meshkit.core.ids import SystemIds
from services.meshkit.testing.fake_clock import FakeClock
from tests.support.inference import ANNA, OPENAI, a_prompt
from tests.support.known_tenants import KnownTenants
from tests.unit.inference.test_registry import a_registry


class Full:
    """A store that has no room, and a provider and a gateway that say yes to everything."""

    def __init__(self) -> None:
        self.grants = 0

    async def check_addable(self, tenant: Any) -> None:
        raise TooManyBatches(MOST_OPEN_BATCHES)

    async def issue(self, caller: Caller, batch_id: str) -> str:
        self.grants += 1
        return "grant_1"

    def batcher(self, version: Any) -> Any:
        return self

    def check(self, deployment: Any, prompt: Any) -> None: ...


async def test_one_batch_too_many_stores_no_grant() -> None:
    full: Any = Full()
    create = CreateBatch(
        registry=a_registry(Holdings()),
        open_batches=full,
        store=full,
        tokens=full,
        tenants=KnownTenants(),
        clock=FakeClock(),
        ids=SystemIds(),
    )
    with pytest.raises(TooManyBatches):
        await create(Caller(principal=ANNA), OPENAI.name, [AskedItem(item_id="a", prompt=a_prompt(), request=b"")])
    assert full.grants == 0
