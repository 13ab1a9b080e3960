"""Puts together what looks through the books."""

from collections.abc import Sequence

from services.cost.settings import CostSettings
from services.cost.storage.book_check import BookCheck
from services.meshkit.checking import STATEMENT_SECONDS
from services.meshkit.core.checked import Checked
from services.meshkit.sql.engine import sql_engine


async def check_money(settings: CostSettings) -> Sequence[Checked]:
    """Raises: Unavailable: the database is away."""
    url = settings.maintenance_database_url.get_secret_value()
    async with sql_engine(
        url, pool_size=1, command_timeout_seconds=STATEMENT_SECONDS, application_name="cost-check"
    ) as maintenance:
        counts, faults = await BookCheck(maintenance).differences()
    return [Checked(what=counts, faults=faults)]
