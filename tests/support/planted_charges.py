"""A past for the ledger, where a test cannot wait for weeks of spend."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import uuid4

from services.cost.storage.tables import COST_EVENT
from services.meshkit.content.usage import USAGE_CLASSES
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.scope import tenant_scope


def a_charge(at: datetime, cost: int, **changes: Any) -> dict[str, Any]:
    """Makes a charge of then, nano-USD."""
    values: dict[str, Any] = {
        "id": uuid4(),
        "hold_id": uuid4(),
        "kind": 1,
        "provider": "openai",
        "model": "gpt-4o-mini",
        "run_id": "run_usual",
        "path": "a",
        "attempt_group": 0,
        "call_index": 0,
        "agent_name": "Athena",
        "agent_version": "1",
        "project": "",
        **{f"{name}_tokens": 0 for name in USAGE_CLASSES},
        "cost_nano_usd": cost,
        "assumed": False,
        "reversal": False,
        "price_digest": None,
        "created_time": at,
    }
    return {**values, **changes}


async def plant(url: str, tenant: TenantId, charges: Iterable[dict[str, Any]]) -> None:
    """Writes charges into the ledger at `url`, as if they had been made then; as its service's own role."""
    async with sql_engine(url, pool_size=1) as engine, tenant_scope(engine, tenant) as scope:
        await scope.execute(COST_EVENT.insert(), [{"tenant_id": tenant, **charge} for charge in charges])
        await scope.commit()
