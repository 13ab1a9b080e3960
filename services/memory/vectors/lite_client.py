"""Blocking calls to Milvus Lite, for threads: a library in this process. See `milvus.py` for who calls them.

Its own client would reach it by way of a server on the loopback: for each call half a dozen threads of this process and
three copies of what is asked, which takes longer than the call.
"""

import errno
import importlib
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from services.memory.domain.errors import VectorSpaceMissing
from services.memory.domain.memory import MemoryId
from services.memory.domain.vector import Space, Vector
from services.memory.usecases.ports import Match, PlacedVector
from services.memory.vectors.names import PREFIX, collection_of, filter_of, filter_of_tenant, key_of, match_of, row_of
from services.meshkit.core.identity import TenantId
from services.meshkit.core.imports import without
from services.meshkit.telemetry.logs import logger

_FILE: Final = "vectors.db"
_HEX: Final = 32
_VECTOR: Final = "vector"
#: Milvus Lite looks through rows that are not in a segment one by one in Python at every search, 20 us each and with
#: 1,536 dimensions 90 us: so many of a partition are put into a segment, or so many of all, as each partition has a
#: segment of its own; and so many when nothing else is to do. Small segments are merged by and by.
_LOOSE_OF_ONE: Final = 64
_LOOSE_ROWS: Final = 256
_IDLE_ROWS: Final = 32
#: Milvus Lite looks at every row of the partitions it is told to search, and does not choose them by the tenant itself:
#: so many groups of tenants with so many groups of agents each have one. A search of one agent looks at one of 32.
_TENANT_GROUPS: Final = 8
_AGENT_GROUPS: Final = 4
#: What the machine lacks for a while, and no fault of the file that could not be opened.
_PASSING: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT})

log = logger(__name__)


class LiteClient:
    """What one folder holds. Reads may come from several threads at once, writes from one thread only."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # Its own allocator keeps what it once had; that of the system gives it back.
        _arrow().set_memory_pool(_arrow().system_memory_pool())
        # It has no types, and is imported late: it is heavy.
        self._lite: Any = importlib.import_module("milvus_lite")
        #: What a call raises when Milvus Lite fails; of what it writes with, too.
        self.failures: tuple[type[Exception], ...] = (
            importlib.import_module("milvus_lite.exceptions").MilvusLiteError,
            _arrow().ArrowException,
        )
        self._database: Any = self._lite.MilvusLite(str(lite_file(folder)))
        self._folder_of_collections = lite_file(folder) / "collections"
        #: What is there, by name. Nobody else makes or drops any: the folder is locked.
        self._collections: dict[str, Any] = {}
        #: Rows that are in no segment yet, by collection and partition.
        self._loose: defaultdict[str, Counter[str]] = defaultdict(Counter)
        try:
            for name in self._database.list_collections():
                if name.startswith(PREFIX) and (collection := self._open(name)) is not None:
                    self._collections[name] = collection
        except BaseException:
            # Or the next attempt would find the folder locked, by this one.
            self._database.close()
            raise

    def close(self) -> None:
        """Writes what is only in memory, and lets go of the folder."""
        self._database.close()

    def upsert(self, space: Space, vectors: Sequence[PlacedVector]) -> None:
        """See `VectorStore.upsert`."""
        if not vectors:
            return
        name = collection_of(space)
        collection = self._collections.get(name) or self._create(space)
        groups: defaultdict[str, list[dict[str, object]]] = defaultdict(list)
        for vector in vectors:
            groups[_partition(vector.tenant, key_of(vector.tenant, vector.agent))].append(row_of(vector))
        loose = self._loose[name]
        for group, rows in groups.items():
            collection.upsert(rows, partition_name=group)
            loose[group] += len(rows)
        if max(loose.values()) >= _LOOSE_OF_ONE or loose.total() >= _LOOSE_ROWS:
            self._pack(name)

    def pack(self) -> None:
        """Makes searches quick while nothing else is to do."""
        for name, loose in tuple(self._loose.items()):
            if loose.total() >= _IDLE_ROWS:
                self._pack(name)

    def search(
        self, space: Space, tenant: TenantId, vector: Vector, *, project: str, agent: str, most: int
    ) -> list[Match]:
        """See `VectorStore.search`."""
        collection = self._collections.get(collection_of(space))
        if collection is None:
            raise VectorSpaceMissing(space.model)
        (hits,) = collection.search(
            [vector.tolist()],
            top_k=most,
            metric_type="COSINE",
            partition_names=_partitions(tenant, key_of(tenant, agent) if agent else None),
            expr=filter_of(tenant, project, agent),
            # The key alone is wanted; without a field named, it gives them all.
            output_fields=["id"],
        )
        return [match_of(hit) for hit in hits]

    def delete(self, memories: Iterable[MemoryId]) -> None:
        """See `VectorStore.delete`."""
        ids = [memory.hex for memory in memories]
        for collection in self._collections.values():
            groups: defaultdict[str, list[str]] = defaultdict(list)
            for row in collection.get(ids, output_fields=["id", "tenant", "agent"]):
                groups[_partition(TenantId(UUID(row["tenant"])), UUID(row["agent"]))].append(row["id"])
            for group, there in groups.items():
                # With no partition named, Milvus Lite writes down in each that there is what was deleted.
                collection.delete(there, partition_name=group)

    def count_of(self, tenant: TenantId) -> int:
        """See `VectorStore.count_of`."""
        groups = _partitions(tenant, None)
        return sum(len(_ids_of(collection, tenant, groups)) for collection in self._collections.values())

    def delete_all(self, tenant: TenantId) -> int:
        """See `VectorStore.delete_all`."""
        return sum(
            int(collection.delete(_ids_of(collection, tenant, [group]), partition_name=group))
            for collection in self._collections.values()
            for group in _partitions(tenant, None)
        )

    def count(self, space: Space) -> int:
        """See `VectorStore.count`."""
        collection = self._collections.get(collection_of(space))
        return 0 if collection is None else int(collection.num_entities)

    def drop(self, space: Space) -> None:
        """See `VectorStore.drop`."""
        name = collection_of(space)
        self._database.drop_collection(name)
        self._collections.pop(name, None)
        self._loose.pop(name, None)

    def _pack(self, name: str) -> None:
        del self._loose[name]
        self._collections[name].flush()
        # Writing a segment takes buffers many times its size, which would stay with the process.
        _arrow().default_memory_pool().release_unused()

    def _open(self, name: str) -> Any:
        """Opens a collection; drops one that is torn, gives None then, and the others stay as they are."""
        try:
            return _completed(self._database.get_collection(name))
        except Exception as cause:
            if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno in _PASSING):
                raise
            log.warning("vectors of a space cannot be read; they are placed again", collection=name, exc_info=cause)
            self._database.drop_collection(name)
            return None

    def _create(self, space: Space) -> Any:
        """Makes a collection, or what is missing of one whose making ended halfway."""
        name = collection_of(space)
        collection = self._open(name) if self._database.has_collection(name) else None
        if collection is None:
            # What is left of one that had no schema yet, or no longer, would be in the way.
            shutil.rmtree(self._folder_of_collections / name, ignore_errors=True)
            collection = _completed(self._database.create_collection(name, self._schema_of(space)))
        self._collections[name] = collection
        return collection

    def _schema_of(self, space: Space) -> Any:
        field, kind = self._lite.FieldSchema, self._lite.DataType
        names = [field(name, kind.VARCHAR, max_length=_HEX) for name in ("tenant", "project", "agent")]
        return self._lite.CollectionSchema(
            [
                field("id", kind.VARCHAR, max_length=_HEX, is_primary=True),
                *names,
                field(_VECTOR, kind.FLOAT_VECTOR, dim=space.dimensions),
            ]
        )


def lite_file(folder: Path) -> Path:
    """Names what Milvus Lite keeps in a folder. It is there once a vector was stored."""
    return folder / _FILE


def _partition(tenant: TenantId, agent: UUID) -> str:
    return f"group_{tenant.int % _TENANT_GROUPS}_{agent.int % _AGENT_GROUPS}"


def _partitions(tenant: TenantId, agent: UUID | None) -> list[str]:
    """Names where rows of a tenant lie, or those of one of its agents."""
    if agent is not None:
        return [_partition(tenant, agent)]
    return [_partition(tenant, UUID(int=group)) for group in range(_AGENT_GROUPS)]


_PARTITIONS: Final = tuple(
    partition for group in range(_TENANT_GROUPS) for partition in _partitions(TenantId(UUID(int=group)), None)
)


def _completed(collection: Any) -> Any:
    """Adds to a collection what it lacks, and loads it."""
    if not collection.has_index(_VECTOR):
        # Exact, and quick enough for what one machine remembers.
        collection.create_index(_VECTOR, {"index_type": "FLAT", "metric_type": "COSINE"})
    for group in _PARTITIONS:
        if not collection.has_partition(group):
            collection.create_partition(group)
    collection.load()
    return collection


def _ids_of(collection: Any, tenant: TenantId, groups: list[str]) -> list[str]:
    rows = collection.query(filter_of_tenant(tenant), output_fields=["id"], partition_names=groups)
    return [str(row["id"]) for row in rows]


def _arrow() -> Any:
    arrow = importlib.import_module("pyarrow")
    with without("pandas"):
        # At its first array it looks whether there is pandas, and would take it in; once, and never again.
        arrow.array(())
    return arrow
