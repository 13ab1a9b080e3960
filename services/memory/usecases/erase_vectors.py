"""Erases what the vector store holds of a tenant."""

from services.memory.usecases.ports import VectorStore
from services.meshkit.core.identity import TenantId
from services.meshkit.core.tenant import ErasureAction, ErasureStep


class EraseVectors:
    """One store of a tenant's data, beside the tables. Implements `tenant_data.servicer.OtherStore`."""

    def __init__(self, vectors: VectorStore) -> None:
        self._vectors = vectors

    async def plan(self, tenant: TenantId) -> ErasureStep:
        """See `OtherStore.plan`."""
        return _step(await self._vectors.count_of(tenant))

    async def erase(self, tenant: TenantId) -> ErasureStep:
        """See `OtherStore.erase`."""
        return _step(await self._vectors.delete_all(tenant))


def _step(count: int) -> ErasureStep:
    return ErasureStep(service="memory", store="vectors", action=ErasureAction.DELETE, count=count)
