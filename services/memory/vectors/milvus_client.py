"""Blocking calls to a Milvus server, for threads: collections, rows and filters. See `milvus.py` for who calls them."""

import importlib
from collections.abc import Iterable, Sequence
from typing import Any, Final

from services.memory.domain.errors import VectorSpaceMissing
from services.memory.domain.memory import MemoryId
from services.memory.domain.vector import Space, Vector
from services.memory.usecases.ports import Match, PlacedVector
from services.memory.vectors.names import PREFIX, collection_of, filter_of, filter_of_tenant, match_of, row_of
from services.meshkit.core.identity import TenantId
from services.meshkit.core.imports import hollow

#: Longest single call, seconds; who waits for a recall waits less.
_CALL_SECONDS: Final = 10.0
_HEX: Final = 32
#: Most rows that Milvus gives for one question.
_MOST_QUERIED: Final = 16_384
#: Rows that one delete may name.
_DELETE_ITEMS: Final = 256


class MilvusClient:
    """One connection. Reads may come from several threads at once, writes from one thread only."""

    def __init__(self, url: str) -> None:
        # pymilvus has no types worth the name, and is imported late: it is heavy.
        pymilvus: Any = _pymilvus()
        self._types: Any = pymilvus.DataType
        self._client: Any = pymilvus.MilvusClient(uri=url, timeout=_CALL_SECONDS)
        #: What a call raises when Milvus fails.
        self.failures: tuple[type[Exception], ...] = (pymilvus.MilvusException,)
        self._ready: set[Space] = set()

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()

    def upsert(self, space: Space, vectors: Sequence[PlacedVector]) -> None:
        """See `VectorStore.upsert`."""
        if not self._is_there(space):
            self._create(space)
        # Should it be gone after all, the next attempt makes it anew.
        self._ready.discard(space)
        self._client.upsert(collection_of(space), [row_of(vector) for vector in vectors], timeout=_CALL_SECONDS)
        self._ready.add(space)

    def search(
        self, space: Space, tenant: TenantId, vector: Vector, *, project: str, agent: str, most: int
    ) -> list[Match]:
        """See `VectorStore.search`."""
        if not self._is_there(space):
            raise VectorSpaceMissing(space.model)
        try:
            answers = self._client.search(
                collection_of(space),
                data=[vector.tolist()],
                filter=filter_of(tenant, project, agent),
                limit=most,
                output_fields=["id"],
                timeout=_CALL_SECONDS,
            )
        except self.failures:
            self._ready.discard(space)
            if not self._client.has_collection(collection_of(space), timeout=_CALL_SECONDS):
                raise VectorSpaceMissing(space.model) from None
            raise
        return [match_of(hit) for hit in answers[0]]

    def delete(self, memories: Iterable[MemoryId]) -> None:
        """See `VectorStore.delete`."""
        ids = [memory.hex for memory in memories]
        names: list[str] = self._client.list_collections(timeout=_CALL_SECONDS)
        for name in names:
            for start in range(0, len(ids) if name.startswith(PREFIX) else 0, _DELETE_ITEMS):
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
        return [name for name in names if name.startswith(PREFIX)]

    def _ids_of(self, name: str, tenant: TenantId, most: int) -> list[str]:
        self._client.load_collection(name, timeout=_CALL_SECONDS)
        rows = self._client.query(
            name,
            filter=filter_of_tenant(tenant),
            output_fields=["id"],
            limit=most,
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
            collection_of(space),
            filter="",
            output_fields=["count(*)"],
            consistency_level="Strong",
            timeout=_CALL_SECONDS,
        )
        return int(answer[0]["count(*)"])

    def drop(self, space: Space) -> None:
        """See `VectorStore.drop`."""
        self._ready.discard(space)
        self._client.drop_collection(collection_of(space), timeout=_CALL_SECONDS)

    def _is_there(self, space: Space) -> bool:
        """Tells whether a space exists, and has it loaded the first time."""
        if space in self._ready:
            return True
        name = collection_of(space)
        if not self._client.has_collection(name, timeout=_CALL_SECONDS):
            return False
        self._client.load_collection(name, timeout=_CALL_SECONDS)
        self._ready.add(space)
        return True

    def _create(self, space: Space) -> None:
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", self._types.VARCHAR, max_length=_HEX, is_primary=True)
        schema.add_field("tenant", self._types.VARCHAR, max_length=_HEX, is_partition_key=True)
        schema.add_field("project", self._types.VARCHAR, max_length=_HEX)
        schema.add_field("agent", self._types.VARCHAR, max_length=_HEX)
        schema.add_field("vector", self._types.FLOAT_VECTOR, dim=space.dimensions)
        index = self._client.prepare_index_params()
        # The server picks its own.
        index.add_index("vector", index_type="AUTOINDEX", metric_type="COSINE")
        name = collection_of(space)
        self._client.create_collection(name, schema=schema, timeout=_CALL_SECONDS)
        # Not waited for: an empty index is made at once.
        self._client.create_index(name, index, sync=False, timeout=_CALL_SECONDS)
        self._client.load_collection(name, timeout=_CALL_SECONDS)
        self._ready.add(space)


def _pymilvus() -> Any:
    """Imports the client, and not pandas, whose tables it would take as well: 50 MB."""
    with hollow("pandas", "pandas.api", "pandas.api.types"):
        return importlib.import_module("pymilvus")
