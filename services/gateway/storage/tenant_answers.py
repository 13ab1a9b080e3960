"""Answers about a tenant that others keep for repeats of their requests: an operator's, with the tenant's rules."""

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway.domain.tenant import TENANT_PREFIX
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.core.tenant import ErasureAction, ErasureStep
from services.meshkit.sql.scope import maintenance_scope

# An answer of that service names the tenant that it is about, and lives for a day: a scan of few rows. That to the
# deletion itself holds nothing that the tenant wrote, and stays for repeats.
_ABOUT: Final = (
    " FROM request_id WHERE method LIKE 'comitia.gateway.v1.TenantService/%' AND method NOT LIKE '%/DeleteTenant'"
    " AND tenant_id <> :tenant"
    " AND position(convert_to(:name, 'UTF8') IN answer) > 0"
)
_COUNT: Final = text("SELECT count(*)" + _ABOUT)
_DELETE: Final = text("DELETE" + _ABOUT)


class AnswersToOthers:
    """Implements `meshkit.tenant_data.servicer.OtherStore`. A repeat that comes later finds the tenant as it is then.

    Args:
        maintenance: engine of the `maintenance` role.
    """

    def __init__(self, maintenance: AsyncEngine) -> None:
        self._engine = maintenance

    async def plan(self, tenant: TenantId) -> ErasureStep:
        """See `OtherStore.plan`."""
        async with maintenance_scope(self._engine, read_only=True) as scope:
            return _step((await scope.execute(_COUNT, _names(tenant))).scalar_one())

    async def erase(self, tenant: TenantId) -> ErasureStep:
        """See `OtherStore.erase`."""
        async with maintenance_scope(self._engine) as scope:
            done = await scope.execute(_DELETE, _names(tenant))
            await scope.commit()
        return _step(done.rowcount)


def _names(tenant: TenantId) -> dict[str, object]:
    return {"tenant": tenant, "name": from_uuid(TENANT_PREFIX, tenant)}


def _step(count: int) -> ErasureStep:
    return ErasureStep(service="gateway", store="answers_to_others", action=ErasureAction.DELETE, count=count)
