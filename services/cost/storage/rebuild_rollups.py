"""Adds the whole ledger up anew: `python -m services.cost.storage.rebuild_rollups`.

Sums of charges that were removed for their age stay as they are. Reports go on meanwhile, and change only if sums were
wrong. Reads `COMITIA_COST_…`, as the service does.
"""

import asyncio
import sys

from services.cost.settings import CostSettings
from services.cost.storage.rollup_store import RollupStore
from services.meshkit.sql.engine import sql_engine


async def rebuild(settings: CostSettings) -> int:
    """Gives how many entries were added up."""
    url = settings.maintenance_database_url.get_secret_value()
    async with sql_engine(url, pool_size=1, application_name="cost-rebuild") as maintenance:
        return await RollupStore(maintenance).rebuild()


if __name__ == "__main__":
    sys.stdout.write(f"{asyncio.run(rebuild(CostSettings()))} entries added up\n")  # pyright: ignore[reportCallIssue]
