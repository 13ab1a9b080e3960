"""The table of memories in memory: behaves as Postgres does, tenants and leases included."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from services.memory.domain.errors import MemoryNotFound
from services.memory.domain.memory import Memory, MemoryId, Placement, name_of
from services.memory.domain.vector import Embedding, Space
from services.memory.usecases.ports import PlacedVector, RecordedVector, Stored
from services.meshkit.content import CallContext, CallId, Integrity, Label, text_part
from services.meshkit.core.identity import TenantId
from services.meshkit.testing.fake_clock import NOON
from services.meshkit.testing.fault_queue import FaultQueue
from services.meshkit.testing.mesh_keys import TENANT

USER = Label(integrity=Integrity.USER, sources=frozenset({"agent:Athena"}))


def a_memory(text: str = "Cities should ban cars.", **changes: Any) -> Memory:
    values: dict[str, Any] = {
        "id": MemoryId(uuid4()),
        "tenant": TENANT,
        "project": "",
        "session": None,
        "agent": "Athena",
        "parts": (text_part(text, USER),),
        "tags": (),
        "created": NOON,
        "expires": None,
        "placement": Placement.PENDING,
        "context": CallContext(call_id=CallId(run_id="run_1")),
        "verdict_id": "verdict_1",
    }
    return Memory(**{**values, **changes})


@dataclass(slots=True)
class _Row:
    memory: Memory
    call_key: bytes
    digest: bytes
    embedding: Embedding | None = None
    claimed: bool = False
    forgotten: bool = False


class MemoryTable:
    """A `MemoryWriter`, `MemoryReader`, `EmbedWork` and `PlacementWork` in one. A lease ends when it is given back."""

    def __init__(self) -> None:
        self.rows: dict[MemoryId, _Row] = {}
        self.faults = FaultQueue()

    # --- MemoryWriter ---

    async def add(self, memory: Memory, *, call_key: bytes, digest: bytes) -> Stored:
        self.faults.hit()
        earlier = await self.of_call(memory.tenant, call_key)
        if earlier is not None:
            return earlier
        self.rows[memory.id] = _Row(memory, call_key, digest)
        return Stored(memory=memory, digest=digest)

    async def of_call(self, tenant: TenantId, call_key: bytes) -> Stored | None:
        for row in self.rows.values():
            if (row.memory.tenant, row.call_key) == (tenant, call_key):
                return Stored(memory=row.memory, digest=row.digest)
        return None

    async def forget(self, tenant: TenantId, memory: MemoryId, *, now: datetime) -> bool:
        row = self.rows.get(memory)
        if row is None or row.memory.tenant != tenant:
            raise MemoryNotFound(name_of(memory))
        if row.forgotten:
            return False
        place = row.memory.placement
        nowhere = place is Placement.NONE or (place is Placement.PENDING and row.embedding is None and not row.claimed)
        row.forgotten, row.embedding = True, None
        placement = Placement.NONE if nowhere else Placement.ERASING
        row.memory = replace(row.memory, parts=(), tags=(), placement=placement)
        return not nowhere

    # --- MemoryReader ---

    async def get(self, tenant: TenantId, memory: MemoryId) -> Memory:
        found = [one for one in self._there(tenant) if one.id == memory]
        if not found:
            raise MemoryNotFound(name_of(memory))
        return found[0]

    async def project_of(self, tenant: TenantId, memory: MemoryId) -> str:
        row = self.rows.get(memory)
        if row is None or row.memory.tenant != tenant:
            raise MemoryNotFound(name_of(memory))
        return row.memory.project

    async def ring(
        self, tenant: TenantId, session: UUID, *, project: str, now: datetime, most: int
    ) -> Sequence[Memory]:
        self.faults.hit()
        theirs = [one for one in self._there(tenant) if (one.session, one.project) == (session, project)]
        mine = [one for one in theirs if one.expires and one.expires > now]
        return sorted(mine, key=_place, reverse=True)[:most]

    async def those_of(
        self, tenant: TenantId, memories: Collection[MemoryId], *, project: str, agent: str
    ) -> Sequence[Memory]:
        named = [one for one in self._there(tenant) if one.id in memories]
        return [one for one in named if one.project == project and agent in ("", one.agent)]

    async def page(
        self,
        tenant: TenantId,
        *,
        size: int,
        after: tuple[datetime, UUID] | None,
        session: UUID | None,
        agent: str,
    ) -> Sequence[Memory]:
        mine = [
            one
            for one in self._there(tenant)
            if agent in ("", one.agent) and session in (None, one.session) and (after is None or _place(one) < after)
        ]
        return sorted(mine, key=_place, reverse=True)[:size]

    # --- EmbedWork ---

    async def claim(self, tenant: TenantId, *, project: str | None, most: int) -> Sequence[Memory]:
        self.faults.hit()
        found = [
            row
            for row in sorted(self.rows.values(), key=lambda row: row.memory.id)
            if row.memory.tenant == tenant
            and row.memory.placement is Placement.PENDING
            and not row.claimed
            and project in (None, row.memory.project)
        ][:most]
        for row in found:
            row.claimed = True
        return [row.memory for row in found]

    async def give_back(self, tenant: TenantId, memories: Collection[MemoryId]) -> None:
        for memory in memories:
            row = self.rows[memory]
            row.claimed = row.claimed and row.memory.tenant != tenant

    async def record(
        self, tenant: TenantId, embeddings: Sequence[tuple[MemoryId, Embedding]], placement: Placement
    ) -> Collection[MemoryId]:
        there: set[MemoryId] = set()
        for memory, embedding in embeddings:
            row = self.rows.get(memory)
            if row is not None and row.memory.tenant == tenant and not row.forgotten:
                row.embedding, row.claimed = embedding, False
                row.memory = replace(row.memory, placement=placement)
                there.add(memory)
        return there

    async def outdate(self, tenant: TenantId, space: Space) -> int:
        count = 0
        for row in self._of(Placement.PLACED, Placement.RECORDED):
            if row.memory.tenant == tenant and row.embedding is not None and row.embedding.space != space:
                row.memory = replace(row.memory, placement=Placement.PENDING)
                count += 1
        return count

    async def has_placed(self, tenant: TenantId, space: Space) -> bool:
        return any(
            row.memory.tenant == tenant and row.embedding is not None and row.embedding.space == space
            for row in self._of(Placement.PLACED)
        )

    # --- PlacementWork ---

    async def recorded(self, *, most: int) -> Sequence[RecordedVector]:
        return [_vector(row) for row in self._of(Placement.RECORDED)][:most]

    async def placed(self, vectors: Sequence[RecordedVector]) -> Collection[MemoryId]:
        there: set[MemoryId] = set()
        for vector in vectors:
            row = self.rows[vector.placed.memory]
            if row.memory.placement is Placement.RECORDED:
                row.memory = replace(row.memory, placement=Placement.PLACED)
                there.add(row.memory.id)
        return there

    async def erasing(self, *, most: int) -> Sequence[MemoryId]:
        return [row.memory.id for row in self._of(Placement.ERASING)][:most]

    async def erased(self, memories: Collection[MemoryId]) -> None:
        for row in self._of(Placement.ERASING):
            if row.memory.id in memories:
                row.memory = replace(row.memory, placement=Placement.NONE)

    async def spaces(self) -> Sequence[tuple[Space, int]]:
        counts: dict[Space, int] = {}
        for row in self._of(Placement.PLACED):
            assert row.embedding is not None
            counts[row.embedding.space] = counts.get(row.embedding.space, 0) + 1
        return list(counts.items())

    async def displace(self, space: Space) -> int:
        rows = [row for row in self._of(Placement.PLACED) if row.embedding is not None and row.embedding.space == space]
        for row in rows:
            row.memory = replace(row.memory, placement=Placement.RECORDED)
        return len(rows)

    def _there(self, tenant: TenantId) -> list[Memory]:
        return [row.memory for row in self.rows.values() if row.memory.tenant == tenant and not row.forgotten]

    def _of(self, *placements: Placement) -> list[_Row]:
        return [row for row in self.rows.values() if row.memory.placement in placements]


def _place(memory: Memory) -> tuple[datetime, UUID]:
    return memory.created, memory.id


def _vector(row: _Row) -> RecordedVector:
    assert row.embedding is not None
    memory = row.memory
    placed = PlacedVector(
        tenant=memory.tenant,
        memory=memory.id,
        project=memory.project,
        agent=memory.agent,
        vector=row.embedding.vector,
    )
    return RecordedVector(placed=placed, space=row.embedding.space)
