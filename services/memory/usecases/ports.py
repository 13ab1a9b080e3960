"""What the use cases need from outside: law, an embedder, a vector store, and Postgres."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from services.memory.domain.memory import Memory, MemoryId, Placement
from services.memory.domain.vector import Embedding, Space, Vector
from services.meshkit.content import CallContext
from services.meshkit.core.identity import Principal, TenantId


class Embedder(Protocol):
    """Makes vectors of texts, with a caller's token and money."""

    async def embed(
        self, principal: Principal, context: CallContext, texts: Sequence[str], *, seconds: float
    ) -> Sequence[Embedding]:
        """Gives one unit vector per text, all of one space.

        Args:
            texts: 1 to 256, none blank.
        Raises: MeshError: what inference refused it for.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedVector:
    """A vector on its way into the vector store."""

    tenant: TenantId
    memory: MemoryId
    project: str
    agent: str
    vector: Vector


@dataclass(frozen=True, slots=True)
class Match:
    """What a vector store found. Only a hint: the row in Postgres decides whether it is shown."""

    memory: MemoryId
    #: Cosine similarity, -1 to 1.
    score: float


class VectorStore(Protocol):
    """Finds the most similar vectors of a tenant. May lose everything; it is filled again from Postgres."""

    async def upsert(self, space: Space, vectors: Sequence[PlacedVector]) -> None:
        """Puts vectors in place, each instead of the one its memory had. Makes the space when it is missing.

        Raises: VectorsUnavailable.
        """
        ...

    async def search(
        self, space: Space, tenant: TenantId, vector: Vector, *, project: str, agent: str, most: int
    ) -> Sequence[Match]:
        """Gives the most similar of a project, or of none, best first; of one agent unless `agent` is empty.

        Raises: VectorSpaceMissing: the space does not exist. VectorsUnavailable.
        """
        ...

    async def delete(self, memories: Collection[MemoryId]) -> None:
        """Deletes the vectors of these memories in every space; those without are passed over.

        Raises: VectorsUnavailable.
        """
        ...

    async def count_of(self, tenant: TenantId) -> int:
        """Counts the vectors of a tenant in all spaces, of a server at most 16,384 each. Raises: VectorsUnavailable."""
        ...

    async def delete_all(self, tenant: TenantId) -> int:
        """Deletes every vector of a tenant; says how many those were. Raises: VectorsUnavailable."""
        ...

    async def count(self, space: Space) -> int:
        """Counts the vectors of a space, 0 when it is missing. Raises: VectorsUnavailable."""
        ...

    async def drop(self, space: Space) -> None:
        """Drops a space with all its vectors, if it exists. Raises: VectorsUnavailable."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A memory as it lies in the table, and the digest of what was asked for when it was made."""

    memory: Memory
    digest: bytes


class MemoryWriter(Protocol):
    """Writes memories. Rows are the record; everything else follows from them."""

    async def add(self, memory: Memory, *, call_key: bytes, digest: bytes) -> Stored:
        """Stores a memory, or gives the one that the same call stored before.

        Concurrency: callers at the same time are committed together; of two with one call key one row remains.
        """
        ...

    async def of_call(self, tenant: TenantId, call_key: bytes) -> Stored | None:
        """Gives the memory that a call stored."""
        ...

    async def forget(self, tenant: TenantId, memory: MemoryId, *, now: datetime) -> bool:
        """Erases the content of a memory and of its recorded vector; what is left says only that it was there.

        Returns: True when a vector of it may be in the store.
        Raises: MemoryNotFound: it never existed in this tenant.
        """
        ...


class MemoryReader(Protocol):
    """Reads memories of one tenant. What is forgotten, or sealed with a destroyed key, is not there."""

    async def get(self, tenant: TenantId, memory: MemoryId) -> Memory:
        """Gives a memory. Raises: MemoryNotFound."""
        ...

    async def project_of(self, tenant: TenantId, memory: MemoryId) -> str:
        """Gives the project of a memory, forgotten or not. Raises: MemoryNotFound: it never existed in this tenant."""
        ...

    async def ring(
        self, tenant: TenantId, session: UUID, *, project: str, now: datetime, most: int
    ) -> Sequence[Memory]:
        """Gives the latest memories of a session, those of the project that have not expired; newest first."""
        ...

    async def those_of(
        self, tenant: TenantId, memories: Collection[MemoryId], *, project: str, agent: str
    ) -> Sequence[Memory]:
        """Gives those of the memories that are there, the project's and, unless `agent` is empty, the agent's."""
        ...

    async def page(
        self,
        tenant: TenantId,
        *,
        size: int,
        after: tuple[datetime, UUID] | None,
        session: UUID | None,
        agent: str,
    ) -> Sequence[Memory]:
        """Gives memories newest first, those after the place (create time, id)."""
        ...


class EmbedWork(Protocol):
    """The memories of a tenant that wait to be embedded."""

    async def claim(self, tenant: TenantId, *, project: str | None, most: int) -> Sequence[Memory]:
        """Takes pending memories, oldest first, for the time of a lease; nobody else is given them meanwhile.

        Args:
            project: takes those of this project only; None: of all.
        """
        ...

    async def give_back(self, tenant: TenantId, memories: Collection[MemoryId]) -> None:
        """Ends the lease of memories that could not be embedded."""
        ...

    async def record(
        self, tenant: TenantId, embeddings: Sequence[tuple[MemoryId, Embedding]], placement: Placement
    ) -> Collection[MemoryId]:
        """Records vectors for good and how far they have come. Gives those whose memory is still there."""
        ...

    async def outdate(self, tenant: TenantId, space: Space) -> int:
        """Makes what is embedded in other spaces pending again; returns how many."""
        ...

    async def has_placed(self, tenant: TenantId, space: Space) -> bool:
        """Tells whether the tenant should have vectors in the store."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedVector:
    """A vector as it is recorded in Postgres."""

    placed: PlacedVector
    space: Space


class PlacementWork(Protocol):
    """What the vector store lacks or should not have, over all tenants."""

    async def recorded(self, *, most: int) -> Sequence[RecordedVector]:
        """Gives vectors that are recorded and not placed."""
        ...

    async def placed(self, vectors: Sequence[RecordedVector]) -> Collection[MemoryId]:
        """Marks vectors as placed. Gives those whose memory is still there."""
        ...

    async def erasing(self, *, most: int) -> Sequence[MemoryId]:
        """Gives forgotten memories whose vectors may still be in the store."""
        ...

    async def erased(self, memories: Collection[MemoryId]) -> None:
        """Marks their vectors as deleted."""
        ...

    async def spaces(self) -> Sequence[tuple[Space, int]]:
        """Counts the memories that should be in the store, by space."""
        ...

    async def displace(self, space: Space) -> int:
        """Marks all placed vectors of a space as not placed; returns how many."""
        ...
