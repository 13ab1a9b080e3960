"""One transaction at a time, for what two of them would both see as still free."""

from sqlalchemy import func, select

from services.meshkit.core.identity import TenantId
from services.meshkit.sql.scope import Scope


async def alone(scope: Scope, what: str, tenant: TenantId) -> None:
    """Waits until no other transaction of the tenant is at the same; ends with the transaction."""
    await scope.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"{what}/{tenant}", 0))))
