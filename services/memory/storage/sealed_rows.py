"""Rows to memories and back: what a tenant said is sealed with its data key."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol
from uuid import UUID

from services.memory.domain.memory import Memory, MemoryId, Placement
from services.memory.domain.vector import Embedding, Space, vector_from_bytes, vector_to_bytes
from services.memory.usecases.ports import PlacedVector, RecordedVector
from services.meshkit.content import CallContext, CallId, Part
from services.meshkit.core.identity import TenantId
from services.meshkit.crypto.errors import KeyDestroyed
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.telemetry.logs import logger

#: Context of what was forgotten.
_NO_CONTEXT: Final = CallContext(call_id=CallId(run_id=""))


class Row(Protocol):
    """A row as asyncpg gives it; its values have the types of the columns in `tables.py`."""

    def __getitem__(self, column: str, /) -> Any:
        """Gives the value of a column."""
        ...


log = logger(__name__)


class PayloadCodec(Protocol):
    """Writes parts and context as bytes. The transport room has the one that speaks protobuf."""

    def encode(self, parts: tuple[Part, ...], context: CallContext) -> bytes:
        """Writes them."""
        ...

    def decode(self, payload: bytes) -> tuple[tuple[Part, ...], CallContext]:
        """Reads them."""
        ...


class SealedRows:
    """Seals and opens what lies in rows; each envelope opens in its own row and column only."""

    def __init__(self, keys: KeyRing, codec: PayloadCodec) -> None:
        self._keys = keys
        self._codec = codec

    async def seal(self, memory: Memory) -> bytes:
        """Seals the content of a memory."""
        plain = self._codec.encode(memory.parts, memory.context)
        return await self._keys.seal(memory.tenant, plain, aad=_aad(memory.id, "payload"))

    async def seal_vectors(self, tenant: TenantId, vectors: Sequence[tuple[MemoryId, Embedding]]) -> list[bytes]:
        """Seals vectors: they tell a good part of what they stand for."""
        await self._keys.load(tenant)
        return [
            self._keys.seal_sync(tenant, vector_to_bytes(made.vector), aad=_aad(memory, "vector"))
            for memory, made in vectors
        ]

    async def memories(self, rows: Iterable[Row]) -> list[Memory]:
        """Opens rows. Leaves out those whose key was destroyed: their content is gone on purpose."""
        opened: list[Memory] = []
        for row in rows:
            try:
                opened.append(await self.memory(row))
            except KeyDestroyed:
                log.debug("a memory's key was destroyed", memory=str(row["memory_id"]))
        return opened

    async def memory(self, row: Row) -> Memory:
        """Opens one row; one that was forgotten has no parts. Raises: KeyDestroyed, SealBroken."""
        tenant, memory = TenantId(uuid_of(row["tenant_id"])), MemoryId(uuid_of(row["memory_id"]))
        parts: tuple[Part, ...] = ()
        context = _NO_CONTEXT
        if row["payload"] is not None:
            plain = await self._keys.open(tenant, row["payload"], aad=_aad(memory, "payload"))
            parts, context = self._codec.decode(plain)
        return Memory(
            id=memory,
            tenant=tenant,
            project=row["project"],
            session=None if row["session_id"] is None else uuid_of(row["session_id"]),
            agent=row["agent_name"],
            parts=parts,
            tags=tuple(row["tags"]),
            created=row["create_time"],
            expires=row["expire_time"],
            placement=Placement(row["placement"]),
            context=context,
            verdict_id=row["verdict_id"],
        )

    async def vectors(self, rows: Iterable[Row]) -> tuple[list[RecordedVector], list[MemoryId]]:
        """Opens recorded vectors. Also gives the memories whose vectors can never be opened again."""
        opened: list[RecordedVector] = []
        lost: list[MemoryId] = []
        for row in rows:
            tenant, memory = TenantId(uuid_of(row["tenant_id"])), MemoryId(uuid_of(row["memory_id"]))
            try:
                packed = await self._keys.open(tenant, row["vector"], aad=_aad(memory, "vector"))
            except KeyDestroyed:
                lost.append(memory)
                continue
            placed = PlacedVector(
                tenant=tenant,
                memory=memory,
                project=row["project"],
                agent=row["agent_name"],
                vector=vector_from_bytes(packed),
            )
            opened.append(RecordedVector(placed=placed, space=space_of(row)))
        return opened, lost


def space_of(row: Row) -> Space:
    """Reads in which space a row's vector lives."""
    return Space(model=row["embed_model"], dimensions=row["embed_dimensions"])


def uuid_of(value: Any) -> UUID:
    """Turns asyncpg's own UUID into Python's: they compare and hash alike, but print and pickle differently."""
    return value if type(value) is UUID else UUID(int=value.int)


def _aad(memory: MemoryId, column: str) -> bytes:
    return f"memory/{memory}/{column}".encode()
