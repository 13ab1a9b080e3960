"""A vector store in memory that looks at every vector. Passes the contract suite of the port."""

from collections.abc import Collection, Sequence

from services.memory.domain.errors import VectorSpaceMissing
from services.memory.domain.memory import MemoryId
from services.memory.domain.vector import Space, Vector
from services.memory.usecases.ports import Match, PlacedVector
from services.meshkit.core.identity import TenantId
from services.meshkit.testing.fault_queue import FaultQueue


class BruteForceVectors:
    """A `VectorStore` whose faults are queued: `vectors.faults.next(VectorsUnavailable("milvus"))`."""

    def __init__(self) -> None:
        self.spaces: dict[Space, dict[MemoryId, PlacedVector]] = {}
        self.faults = FaultQueue()

    async def upsert(self, space: Space, vectors: Sequence[PlacedVector]) -> None:
        self.faults.hit()
        self.spaces.setdefault(space, {}).update({vector.memory: vector for vector in vectors})

    async def search(
        self, space: Space, tenant: TenantId, vector: Vector, *, project: str, agent: str, most: int
    ) -> Sequence[Match]:
        self.faults.hit()
        if space not in self.spaces:
            raise VectorSpaceMissing(space.model)
        found = [
            Match(placed.memory, sum(one * other for one, other in zip(vector, placed.vector, strict=True)))
            for placed in self.spaces[space].values()
            if (placed.tenant, placed.project) == (tenant, project) and agent in ("", placed.agent)
        ]
        return sorted(found, key=lambda match: -match.score)[:most]

    async def delete(self, memories: Collection[MemoryId]) -> None:
        self.faults.hit()
        for placed in self.spaces.values():
            for memory in memories:
                placed.pop(memory, None)

    async def count_of(self, tenant: TenantId) -> int:
        self.faults.hit()
        return sum(placed.tenant == tenant for space in self.spaces.values() for placed in space.values())

    async def delete_all(self, tenant: TenantId) -> int:
        count = await self.count_of(tenant)
        for space, placed in self.spaces.items():
            self.spaces[space] = {key: value for key, value in placed.items() if value.tenant != tenant}
        return count

    async def count(self, space: Space) -> int:
        self.faults.hit()
        return len(self.spaces.get(space, ()))

    async def drop(self, space: Space) -> None:
        self.faults.hit()
        self.spaces.pop(space, None)
