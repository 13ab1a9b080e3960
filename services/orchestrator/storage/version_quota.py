"""Quotas of definitions, which are counted with all their versions."""

from sqlalchemy import Table, func, select, text

from services.meshkit.core.identity import TenantId
from services.meshkit.core.tenant import QuotaExceeded
from services.meshkit.sql.scope import Scope


class VersionQuota:
    """Counts what a tenant has in a table of versions.

    Args:
        name: in the contract, such as `max_agents`.
        lock: class of the advisory locks, a constant of ours; the tenant is the key.
    """

    def __init__(self, name: str, table: Table, *, lock: int) -> None:
        self._name = name
        self._table = table
        self._take_turns = text(f"SELECT pg_advisory_xact_lock({lock}, hashtext(:tenant))")

    async def check(self, scope: Scope, tenant: TenantId, *, most: int) -> None:
        """Counts what there is with the version that was just added. Raises: QuotaExceeded.

        Args:
            most: 0 for no limit.
        Concurrency: versions of one tenant are counted one after the other, in all replicas.
        """
        if not most:
            return
        await scope.execute(self._take_turns, {"tenant": str(tenant)})
        # Asked after the turn is ours: the statement sees what was committed up to now.
        count = select(func.count()).select_from(self._table).where(self._table.c.tenant_id == tenant)
        used: int = (await scope.execute(count)).scalar_one()
        if used > most:
            raise QuotaExceeded(self._name, limit=most, used=used - 1)
