"""Blocking calls to Milvus, for threads: collections, rows and filters. See `milvus.py` for who calls them.

The synchronous client, because Milvus Lite does not answer all that the asynchronous one asks.
"""

import importlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid5

from services.memory.domain.errors import VectorSpaceMissing, VectorsUnavailable
from services.memory.domain.memory import MemoryId
from services.memory.domain.vector import Space, Vector
from services.memory.usecases.ports import Match, PlacedVector
from services.meshkit.core.identity import TenantId
from services.meshkit.core.imports import hollow, without

_PREFIX: Final = "comitia_memory_"
_LITE_FILE: Final = "vectors.db"
#: Longest single call, seconds; who waits for a recall waits less.
_CALL_SECONDS: Final = 10.0
_HEX: Final = 32
#: Milvus Lite looks through rows that are not in a segment one by one in Python, ~40 us each at every search: so many
#: are put into a segment at once, and so many when nothing else is to do. Small segments are merged by and by.
_LITE_LOOSE_ROWS: Final = 256
_LITE_IDLE_ROWS: Final = 32
#: Milvus Lite looks at every row of the partitions it is told to search, and does not choose them by the tenant itself:
#: so many groups of tenants with so many groups of agents each have one. A search of one agent looks at one of 32.
_LITE_TENANT_GROUPS: Final = 8
_LITE_AGENT_GROUPS: Final = 4
#: Rows that one delete may name.
#: Most rows that Milvus gives for one question.
_MOST_QUERIED: Final = 16_384
_DELETE_ITEMS: Final = 256


class MilvusClient:
    """One connection. Reads may come from several threads at once, writes from one thread only."""

    def __init__(self, url: str | None, folder: Path) -> None:
        self._lite = None if url is not None else lite_file(folder)
        # pymilvus has no types worth the name, and is imported late: it is heavy.
        pymilvus: Any = _pymilvus()
        self._types: Any = pymilvus.DataType
        self._client: Any = pymilvus.MilvusClient(
            uri=url if self._lite is None else start_lite(self._lite), timeout=_CALL_SECONDS
        )
        #: What a call raises when Milvus fails.
        self.failure: type[Exception] = pymilvus.MilvusException
        self._ready: set[Space] = set()
        #: Rows of Milvus Lite that are in no segment yet, by collection.
        self._loose: defaultdict[str, int] = defaultdict(int)

    def close(self) -> None:
        """Ends the connection, and Milvus Lite with it."""
        self._client.close()
        if self._lite is not None:
            _lite_servers().release_server(str(self._lite))

    def upsert(self, space: Space, vectors: Sequence[PlacedVector]) -> None:
        """See `VectorStore.upsert`."""
        name = _collection(space)
        if not self._is_there(space):
            self._create(space)
        groups: defaultdict[str, list[dict[str, object]]] = defaultdict(list)
        for vector in vectors:
            agent, project = _key(vector.tenant, vector.agent), _key(vector.tenant, vector.project)
            row = {
                "id": vector.memory.hex,
                "tenant": vector.tenant.hex,
                "project": project.hex,
                "agent": agent.hex,
            }
            group = "" if self._lite is None else _lite_partition(vector.tenant, agent)
            groups[group].append({**row, "vector": vector.vector.tolist()})
        # Should it be gone after all, the next attempt makes it anew.
        self._ready.discard(space)
        for group, rows in groups.items():
            self._client.upsert(name, rows, partition_name=group, timeout=_CALL_SECONDS)
        self._ready.add(space)
        if self._lite is not None:
            self._loose[name] += len(vectors)
            self._pack(name, _LITE_LOOSE_ROWS)

    def pack(self) -> None:
        """Makes searches quick while nothing else is to do."""
        for name in tuple(self._loose):
            self._pack(name, _LITE_IDLE_ROWS)

    def search(
        self, space: Space, tenant: TenantId, vector: Vector, *, project: str, agent: str, most: int
    ) -> list[Match]:
        """See `VectorStore.search`."""
        if not self._is_there(space):
            raise VectorSpaceMissing(space.model)
        agent_key = _key(tenant, agent) if agent else None
        where = f'tenant == "{tenant.hex}" and project == "{_key(tenant, project).hex}"'
        if agent_key is not None:
            where += f' and agent == "{agent_key.hex}"'
        try:
            # The key alone is wanted; without a field named, Milvus Lite sends them all.
            answers = self._client.search(
                _collection(space),
                data=[vector.tolist()],
                filter=where,
                limit=most,
                output_fields=["id"],
                partition_names=None if self._lite is None else _lite_partitions(tenant, agent_key),
                timeout=_CALL_SECONDS,
            )
        except self.failure:
            self._ready.discard(space)
            if not self._client.has_collection(_collection(space), timeout=_CALL_SECONDS):
                raise VectorSpaceMissing(space.model) from None
            raise
        return [Match(MemoryId(UUID(hit["id"])), _cosine(float(hit["distance"]))) for hit in answers[0]]

    def delete(self, memories: Iterable[MemoryId]) -> None:
        """See `VectorStore.delete`."""
        ids = [memory.hex for memory in memories]
        names: list[str] = self._client.list_collections(timeout=_CALL_SECONDS)
        for name in names:
            for start in range(0, len(ids) if name.startswith(_PREFIX) else 0, _DELETE_ITEMS):
                self._client.delete(name, ids=ids[start : start + _DELETE_ITEMS], timeout=_CALL_SECONDS)

    def count_of(self, tenant: TenantId) -> int:
        """See `VectorStore.count_of`."""
        return sum(len(self._ids_of(name, tenant, _MOST_QUERIED)) for name in self._spaces())

    def delete_all(self, tenant: TenantId) -> int:
        """See `VectorStore.delete_all`."""
        deleted = 0
        for name in self._spaces():
            while ids := self._ids_of(name, tenant, _DELETE_ITEMS):
                self._client.delete(name, ids=ids, timeout=_CALL_SECONDS)
                deleted += len(ids)
        return deleted

    def _spaces(self) -> list[str]:
        names: list[str] = self._client.list_collections(timeout=_CALL_SECONDS)
        return [name for name in names if name.startswith(_PREFIX)]

    def _ids_of(self, name: str, tenant: TenantId, most: int) -> list[str]:
        self._client.load_collection(name, timeout=_CALL_SECONDS)
        rows = self._client.query(
            name,
            filter=f'tenant == "{tenant.hex}"',
            output_fields=["id"],
            limit=most,
            partition_names=None if self._lite is None else _lite_partitions(tenant, None),
            consistency_level="Strong",
            timeout=_CALL_SECONDS,
        )
        return [str(row["id"]) for row in rows]

    def count(self, space: Space) -> int:
        """See `VectorStore.count`."""
        self._ready.discard(space)
        if not self._is_there(space):
            return 0
        answer = self._client.query(
            _collection(space),
            filter="",
            output_fields=["count(*)"],
            consistency_level="Strong",
            timeout=_CALL_SECONDS,
        )
        return int(answer[0]["count(*)"])

    def drop(self, space: Space) -> None:
        """See `VectorStore.drop`."""
        self._ready.discard(space)
        self._loose.pop(_collection(space), None)
        self._client.drop_collection(_collection(space), timeout=_CALL_SECONDS)

    def _pack(self, name: str, least: int) -> None:
        if self._loose[name] < least:
            return
        del self._loose[name]
        self._client.flush(name, timeout=_CALL_SECONDS)
        # Writing a segment takes buffers many times its size, which would stay with the process.
        _arrow().default_memory_pool().release_unused()

    def _is_there(self, space: Space) -> bool:
        """Tells whether a space exists, and has it loaded the first time."""
        if space in self._ready:
            return True
        name = _collection(space)
        if not self._client.has_collection(name, timeout=_CALL_SECONDS):
            return False
        self._client.load_collection(name, timeout=_CALL_SECONDS)
        self._ready.add(space)
        return True

    def _create(self, space: Space) -> None:
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", self._types.VARCHAR, max_length=_HEX, is_primary=True)
        schema.add_field("tenant", self._types.VARCHAR, max_length=_HEX, is_partition_key=self._lite is None)
        schema.add_field("project", self._types.VARCHAR, max_length=_HEX)
        schema.add_field("agent", self._types.VARCHAR, max_length=_HEX)
        schema.add_field("vector", self._types.FLOAT_VECTOR, dim=space.dimensions)
        index = self._client.prepare_index_params()
        # Milvus Lite: exact, and quick enough for what one machine remembers. A server picks its own index.
        index.add_index("vector", index_type="AUTOINDEX" if self._lite is None else "FLAT", metric_type="COSINE")
        name = _collection(space)
        self._client.create_collection(name, schema=schema, timeout=_CALL_SECONDS)
        # Not waited for: an empty index is made at once, and waiting asks what Milvus Lite does not answer.
        self._client.create_index(name, index, sync=False, timeout=_CALL_SECONDS)
        for group in _LITE_PARTITIONS if self._lite is not None else ():
            self._client.create_partition(name, group, timeout=_CALL_SECONDS)
        self._client.load_collection(name, timeout=_CALL_SECONDS)
        self._ready.add(space)


def _lite_partition(tenant: TenantId, agent: UUID) -> str:
    return f"group_{tenant.int % _LITE_TENANT_GROUPS}_{agent.int % _LITE_AGENT_GROUPS}"


def _lite_partitions(tenant: TenantId, agent: UUID | None) -> list[str]:
    """Names where rows of a tenant lie, or those of one of its agents."""
    if agent is not None:
        return [_lite_partition(tenant, agent)]
    return [_lite_partition(tenant, UUID(int=group)) for group in range(_LITE_AGENT_GROUPS)]


_LITE_PARTITIONS: Final = tuple(
    partition for group in range(_LITE_TENANT_GROUPS) for partition in _lite_partitions(TenantId(UUID(int=group)), None)
)


def _key(tenant: TenantId, name: str) -> UUID:
    """Stands for an agent or a project in filters, which never hold what callers wrote."""
    return uuid5(tenant, name)


def _collection(space: Space) -> str:
    # With its fields in the name: one of other fields is not written to, and filled anew.
    return f"{_PREFIX}{sha256(f'{space.model}/{space.dimensions}/project'.encode()).hexdigest()[:24]}"


def _cosine(found: float) -> float:
    return max(-1.0, min(1.0, found))


def lite_file(folder: Path) -> Path:
    """Names what Milvus Lite keeps in a folder. It is there once a vector was stored."""
    return folder / _LITE_FILE


def _pymilvus() -> Any:
    """Imports the client, and not pandas, whose tables it would take as well: 50 MB."""
    with hollow("pandas", "pandas.api", "pandas.api.types"):
        return importlib.import_module("pymilvus")


def start_lite(file: Path) -> str:
    """Starts Milvus Lite in threads of this process, on a free port of the loopback; gives its address."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # Its own allocator keeps what it once had; that of the system gives it back.
    _arrow().set_memory_pool(_arrow().system_memory_pool())
    address: str | None = _lite_servers().start_and_get_uri(str(file))
    if address is None:
        raise VectorsUnavailable("milvus lite", folder=file.parent)
    return address


def _lite_servers() -> Any:  # milvus-lite has no types
    return importlib.import_module("milvus_lite.server_manager").server_manager_instance


def _arrow() -> Any:
    arrow = importlib.import_module("pyarrow")
    with without("pandas"):
        # At its first array it looks whether there is pandas, and would take it in; once, and never again.
        arrow.array(())
    return arrow
