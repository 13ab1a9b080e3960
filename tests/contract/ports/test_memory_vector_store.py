"""One suite for vector stores, on the fake, on Milvus Lite and on what stands for a Milvus server."""

import asyncio
import errno
import importlib
import itertools
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from milvus_lite.exceptions import CollectionNotLoadedError
from pyarrow import ArrowInvalid

from services.memory.domain.errors import VectorSpaceMissing, VectorsUnavailable
from services.memory.domain.memory import MemoryId
from services.memory.domain.vector import Space
from services.memory.usecases.ports import Match, PlacedVector, VectorStore
from services.memory.vectors.lite_client import LiteClient, lite_file
from services.memory.vectors.milvus import MilvusVectors
from services.memory.vectors.names import collection_of, key_of, row_of
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.errors import Internal
from services.meshkit.core.identity import TenantId
from services.meshkit.testing.fake_clock import FakeClock
from tests.support.brute_force_vectors import BruteForceVectors
from tests.support.hashing_embedder import vector_of
from tests.support.log_lines import log_lines
from tests.support.milvus_server import milvus_server

pytestmark = pytest.mark.asyncio(loop_scope="module")

DIMENSIONS = 32


@pytest_asyncio.fixture(params=["brute_force", "milvus_lite", "milvus_server"], scope="module", loop_scope="module")
async def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VectorStore]:
    if request.param == "brute_force":
        yield BruteForceVectors()
        return
    folder = tmp_path_factory.mktemp("milvus")
    with nullcontext() if request.param == "milvus_lite" else milvus_server(folder / "server") as url:
        async with MilvusVectors(url=url, data_dir=folder, clock=SystemClock()) as milvus:
            yield milvus


@pytest.fixture
def space() -> Space:
    """A space of the test's own."""
    return Space(model=f"model-{uuid4()}", dimensions=DIMENSIONS)


@pytest.fixture
def tenant() -> TenantId:
    return TenantId(uuid4())


def a_vector(
    tenant: TenantId, text: str, *, agent: str = "Athena", project: str = "", memory: MemoryId | None = None
) -> PlacedVector:
    return PlacedVector(
        tenant=tenant,
        memory=memory or MemoryId(uuid4()),
        project=project,
        agent=agent,
        vector=vector_of(text, DIMENSIONS),
    )


async def test_finds_the_most_similar_first(store: VectorStore, space: Space, tenant: TenantId) -> None:
    cars, tax, trees = (a_vector(tenant, text) for text in ("ban cars in cities", "tax cars", "plant trees"))
    await store.upsert(space, [cars, tax, trees])
    found = await store.search(space, tenant, vector_of("ban cars in cities", DIMENSIONS), project="", agent="", most=2)
    assert [match.memory for match in found] == [cars.memory, tax.memory]
    assert found[0].score == pytest.approx(1.0, abs=1e-5)
    assert found[0].score > found[1].score > -1


async def test_another_tenants_vectors_are_never_found(store: VectorStore, space: Space, tenant: TenantId) -> None:
    await store.upsert(space, [a_vector(TenantId(uuid4()), "ban cars"), a_vector(tenant, "plant trees")])
    found = await store.search(space, tenant, vector_of("ban cars", DIMENSIONS), project="", agent="", most=50)
    assert len(found) == 1
    assert not await store.search(
        space, TenantId(uuid4()), vector_of("ban cars", DIMENSIONS), project="", agent="", most=50
    )


@pytest.mark.parametrize("name", ["Solon", '" or tenant != "', "Σόλων\\"])
async def test_an_agent_finds_its_own_only(store: VectorStore, space: Space, tenant: TenantId, name: str) -> None:
    own = a_vector(tenant, "ban cars", agent=name)
    await store.upsert(space, [own, a_vector(tenant, "ban cars", agent="Athena"), a_vector(tenant, "cars", agent="")])
    found = await store.search(space, tenant, vector_of("ban cars", DIMENSIONS), project="", agent=name, most=50)
    assert [match.memory for match in found] == [own.memory]
    assert len(await store.search(space, tenant, vector_of("ban cars", DIMENSIONS), project="", agent="", most=50)) == 3


@pytest.mark.parametrize("name", ["claims", '" or tenant != "'])
async def test_a_project_finds_its_own_only(store: VectorStore, space: Space, tenant: TenantId, name: str) -> None:
    own, unnamed = a_vector(tenant, "cars", project=name), a_vector(tenant, "cars")
    nearest = [a_vector(tenant, "ban cars", project="payroll") for _ in range(5)]
    await store.upsert(space, [*nearest, own, unnamed])
    for project, expected in ((name, own), ("", unnamed)):
        for agent in ("", "Athena"):
            asked = vector_of("ban cars", DIMENSIONS)
            found = await store.search(space, tenant, asked, project=project, agent=agent, most=3)
            assert [match.memory for match in found] == [expected.memory]


async def test_upsert_again_leaves_one_vector(store: VectorStore, space: Space, tenant: TenantId) -> None:
    first = a_vector(tenant, "ban cars")
    again = a_vector(tenant, "plant trees", memory=first.memory)
    await store.upsert(space, [first])
    await store.upsert(space, [again])
    assert await store.count(space) == 1
    (found,) = await store.search(space, tenant, vector_of("plant trees", DIMENSIONS), project="", agent="", most=5)
    assert (found.memory, round(found.score, 4)) == (first.memory, 1.0)


async def test_delete_takes_what_is_there(store: VectorStore, space: Space, tenant: TenantId) -> None:
    kept, gone = a_vector(tenant, "ban cars"), a_vector(tenant, "ban cars")
    await store.upsert(space, [kept, gone])
    for _ in range(2):
        await store.delete([gone.memory, MemoryId(uuid4())])
    found = await store.search(space, tenant, gone.vector, project="", agent="", most=5)
    assert [match.memory for match in found] == [kept.memory]
    assert await store.count(space) == 1


async def test_an_upsert_of_nothing_does_nothing(store: VectorStore, space: Space, tenant: TenantId) -> None:
    await store.upsert(space, [])
    await store.upsert(space, [a_vector(tenant, "ban cars")])
    await store.upsert(space, [])
    assert await store.count(space) == 1


async def test_spaces_do_not_mix(store: VectorStore, space: Space, tenant: TenantId) -> None:
    other = Space(model=space.model, dimensions=16)
    await store.upsert(space, [a_vector(tenant, "ban cars")])
    with pytest.raises(VectorSpaceMissing):
        await store.search(other, tenant, vector_of("ban cars", 16), project="", agent="", most=5)
    assert await store.count(other) == 0


async def test_a_dropped_space_is_missing_until_it_is_filled(
    store: VectorStore, space: Space, tenant: TenantId
) -> None:
    vector = a_vector(tenant, "ban cars")
    await store.upsert(space, [vector])
    for _ in range(2):
        await store.drop(space)
    assert await store.count(space) == 0
    with pytest.raises(VectorSpaceMissing):
        await store.search(space, tenant, vector.vector, project="", agent="", most=5)
    await store.upsert(space, [vector])
    assert [
        match.memory for match in await store.search(space, tenant, vector.vector, project="", agent="", most=5)
    ] == [vector.memory]


async def test_many_vectors_are_all_found(store: VectorStore, space: Space, tenant: TenantId) -> None:
    vectors = [a_vector(tenant, f"memory number {number}") for number in range(600)]
    for start in range(0, len(vectors), 50):
        await store.upsert(space, vectors[start : start + 50])
    assert await store.count(space) == len(vectors)
    wanted = vectors[123]
    found = await store.search(space, tenant, wanted.vector, project="", agent="Athena", most=1)
    assert [match.memory for match in found] == [wanted.memory]
    await store.delete([vector.memory for vector in vectors[:500]])
    assert await store.count(space) == 100


async def test_all_vectors_of_a_tenant_go_and_those_of_others_stay(store: VectorStore, space: Space) -> None:
    gone, stays = TenantId(uuid4()), TenantId(uuid4())
    await store.upsert(space, [a_vector(gone, f"thing {number}") for number in range(30)] + [a_vector(stays, "cars")])
    assert (await store.count_of(gone), await store.count_of(stays)) == (30, 1)
    assert await store.delete_all(gone) == 30
    assert (await store.delete_all(gone), await store.count_of(gone), await store.count_of(stays)) == (0, 0, 1)
    assert not await store.search(space, gone, vector_of("thing 1", DIMENSIONS), project="", agent="", most=5)


async def test_milvus_lite_keeps_vectors_when_it_is_opened_again(tmp_path: Path) -> None:
    space, tenant = Space("model", DIMENSIONS), TenantId(uuid4())
    vector = a_vector(tenant, "ban cars")
    async with MilvusVectors(url=None, data_dir=tmp_path, clock=SystemClock()) as milvus:
        await milvus.upsert(space, [vector])
    async with MilvusVectors(url=None, data_dir=tmp_path, clock=SystemClock()) as milvus:
        assert await milvus.count(space) == 1
        (found,) = await milvus.search(space, tenant, vector.vector, project="", agent="Athena", most=5)
    assert found.memory == vector.memory


def write_as_the_client_before(url: str, space: Space, vectors: Sequence[PlacedVector]) -> None:
    """Writes as it was done when Milvus Lite was asked by its own server: the last one stored is deleted again."""
    pymilvus = importlib.import_module("pymilvus")
    client, kind, name = pymilvus.MilvusClient(uri=url), pymilvus.DataType, collection_of(space)
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", kind.VARCHAR, max_length=32, is_primary=True)
    for field in ("tenant", "project", "agent"):
        schema.add_field(field, kind.VARCHAR, max_length=32)
    schema.add_field("vector", kind.FLOAT_VECTOR, dim=space.dimensions)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="COSINE")
    client.create_collection(name, schema=schema)
    client.create_index(name, index, sync=False)
    for tenants, agents in itertools.product(range(8), range(4)):
        client.create_partition(name, f"group_{tenants}_{agents}")
    client.load_collection(name)
    for number, vector in enumerate(vectors):
        group = f"group_{vector.tenant.int % 8}_{key_of(vector.tenant, vector.agent).int % 4}"
        client.upsert(name, [row_of(vector)], partition_name=group)
        if number == len(vectors) // 2:
            client.flush(name)
    client.delete(name, ids=[vectors[0].memory.hex, vectors[-1].memory.hex])
    client.close()


async def test_milvus_lite_has_what_the_client_before_wrote(tmp_path: Path, space: Space) -> None:
    tenants = [TenantId(uuid4()) for _ in range(2)]
    vectors = [a_vector(tenant, f"{agent} {n}", agent=agent) for tenant in tenants for agent in "AZ" for n in range(5)]
    with milvus_server(lite_file(tmp_path)) as url:
        await asyncio.to_thread(write_as_the_client_before, url, space, vectors)
    gone, there = (vectors[0], vectors[-1]), vectors[1:-1]
    async with MilvusVectors(url=None, data_dir=tmp_path, clock=SystemClock()) as milvus:
        assert await milvus.count(space) == len(there)
        for vector in vectors:
            found = await milvus.search(
                space, vector.tenant, vector.vector, project="", agent=vector.agent, most=len(vectors)
            )
            assert {match.memory for match in found} == {
                other.memory for other in there if (other.tenant, other.agent) == (vector.tenant, vector.agent)
            }
        await milvus.upsert(space, gone)
        await milvus.delete([there[0].memory])
        assert await milvus.count(space) == len(vectors) - 1
        assert await milvus.delete_all(tenants[1]) == 10


def is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())


async def test_milvus_lite_without_vectors_answers_without_being_opened(tmp_path: Path, space: Space) -> None:
    async with MilvusVectors(url=None, data_dir=tmp_path, clock=SystemClock()) as milvus:
        with pytest.raises(VectorSpaceMissing):
            await milvus.search(space, TenantId(uuid4()), vector_of("cars", DIMENSIONS), project="", agent="", most=1)
        assert is_empty(tmp_path)


async def test_milvus_lite_with_vectors_is_open_before_the_first_search(
    tmp_path: Path, space: Space, tenant: TenantId, monkeypatch: pytest.MonkeyPatch
) -> None:
    cars = a_vector(tenant, "ban cars")
    async with MilvusVectors(url=None, data_dir=tmp_path, clock=SystemClock()) as milvus:
        await milvus.upsert(space, [cars])
    async with MilvusVectors(url=None, data_dir=tmp_path, clock=SystemClock()) as milvus:
        monkeypatch.setattr("services.memory.vectors.milvus.LiteClient", None)  # it is opened no more
        found = await milvus.search(space, tenant, vector_of("ban cars", DIMENSIONS), project="", agent="", most=1)
        assert [match.memory for match in found] == [cars.memory]


async def test_milvus_lite_that_could_not_be_opened_is_opened_at_the_next_attempt(
    tmp_path: Path, space: Space, tenant: TenantId, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    cars = a_vector(tenant, "ban cars")
    async with MilvusVectors(url=None, data_dir=tmp_path, clock=clock) as milvus:
        await milvus.upsert(space, [cars])
    full = OSError(errno.EMFILE, "files")
    with monkeypatch.context() as patched, log_lines() as logs:
        patched.setattr("milvus_lite.engine.collection.Collection.load", failing(full))
        milvus = await MilvusVectors(url=None, data_dir=tmp_path, clock=clock).__aenter__()
    assert [(line["log_level"], line["exc_info"]) for line in logs] == [("warning", full)]
    async with AsyncExitStack() as closing:
        closing.push_async_exit(milvus)
        with pytest.raises(VectorsUnavailable):
            await milvus.count(space)
        clock.advance(seconds=60)
        assert await milvus.count(space) == 1


async def test_a_torn_collection_of_milvus_lite_costs_only_itself(tmp_path: Path, tenant: TenantId) -> None:
    torn, whole = Space("torn", DIMENSIONS), Space("whole", DIMENSIONS)
    cars = a_vector(tenant, "ban cars")
    async with MilvusVectors(url=None, data_dir=tmp_path, clock=SystemClock()) as milvus:
        for space in (torn, whole):
            await milvus.upsert(space, [cars])
    (segment,) = (lite_file(tmp_path) / "collections" / collection_of(torn)).glob("partitions/*/data/*.parquet")
    segment.write_bytes(b"PAR1 and no more")
    async with MilvusVectors(url=None, data_dir=tmp_path, clock=SystemClock()) as milvus:
        assert (await milvus.count(torn), await milvus.count(whole)) == (0, 1)
        await milvus.upsert(torn, [cars])
        assert await milvus.count(torn) == 1


@pytest.mark.parametrize("step", ["create_index", "create_partition", "load"])
@pytest.mark.parametrize("opened_again", [False, True])
async def test_a_half_made_collection_of_milvus_lite_is_made_whole(
    tmp_path: Path, space: Space, tenant: TenantId, monkeypatch: pytest.MonkeyPatch, step: str, opened_again: bool
) -> None:
    cars = a_vector(tenant, "ban cars")
    async with AsyncExitStack() as closing:
        milvus = await closing.enter_async_context(MilvusVectors(url=None, data_dir=tmp_path, clock=SystemClock()))
        with monkeypatch.context() as patched:
            patched.setattr(f"milvus_lite.engine.collection.Collection.{step}", failing(OSError(errno.ENOSPC, "disk")))
            with pytest.raises(VectorsUnavailable):
                await milvus.upsert(space, [cars])
        if opened_again:
            await closing.aclose()
            milvus = await closing.enter_async_context(MilvusVectors(url=None, data_dir=tmp_path, clock=SystemClock()))
        await milvus.upsert(space, [cars])
        (found,) = await milvus.search(space, tenant, cars.vector, project="", agent="Athena", most=5)
        assert found.memory == cars.memory


async def test_what_is_left_of_a_collection_without_a_schema_is_not_in_the_way_of_milvus_lite(
    tmp_path: Path, space: Space, tenant: TenantId
) -> None:
    (lite_file(tmp_path) / "collections" / collection_of(space) / "partitions").mkdir(parents=True)
    async with MilvusVectors(url=None, data_dir=tmp_path, clock=SystemClock()) as milvus:
        await milvus.upsert(space, [a_vector(tenant, "ban cars")])
        assert await milvus.count(space) == 1


async def test_a_space_that_could_not_be_dropped_from_milvus_lite_is_still_there(
    tmp_path: Path, space: Space, tenant: TenantId, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with MilvusVectors(url=None, data_dir=tmp_path, clock=SystemClock()) as milvus:
        await milvus.upsert(space, [a_vector(tenant, "ban cars")])
        with monkeypatch.context() as patched:
            patched.setattr("milvus_lite.db.MilvusLite.drop_collection", failing(OSError(errno.EBUSY, "disk")))
            with pytest.raises(VectorsUnavailable):
                await milvus.drop(space)
        assert await milvus.count(space) == 1
        await milvus.drop(space)
        assert await milvus.count(space) == 0


async def test_milvus_lite_writes_down_what_was_deleted_only_where_it_was(tmp_path: Path, space: Space) -> None:
    forgetful, erased, stays = (TenantId(uuid4()) for _ in range(3))
    forgotten = a_vector(forgetful, "ban cars")
    async with MilvusVectors(url=None, data_dir=tmp_path, clock=SystemClock()) as milvus:
        await milvus.upsert(space, [forgotten, a_vector(erased, "tax cars"), a_vector(stays, "plant trees")])
        await milvus.delete([forgotten.memory])
        assert await milvus.delete_all(erased) == 1
    assert len(list(lite_file(tmp_path).rglob("delta_*.parquet"))) <= 2
    async with MilvusVectors(url=None, data_dir=tmp_path, clock=SystemClock()) as milvus:
        assert [await milvus.count_of(tenant) for tenant in (forgetful, erased, stays)] == [0, 0, 1]


def failing(failure: Exception) -> Callable[..., None]:
    def fail(*_arguments: object, **_named: object) -> None:
        raise failure

    return fail


@pytest.mark.parametrize("failure", [CollectionNotLoadedError("space"), ArrowInvalid("file"), OSError("disk")])
async def test_what_fails_in_milvus_lite_is_a_store_that_is_away(
    tmp_path: Path, space: Space, tenant: TenantId, failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    cars = a_vector(tenant, "ban cars")
    async with MilvusVectors(url=None, data_dir=tmp_path, clock=SystemClock()) as milvus:
        await milvus.upsert(space, [cars])
        monkeypatch.setattr(LiteClient, "search", failing(failure))
        with pytest.raises(VectorsUnavailable):
            await milvus.search(space, tenant, cars.vector, project="", agent="", most=1)


@pytest.mark.parametrize("fault", [KeyError("partition"), ValueError("vector"), TypeError("row")])
async def test_a_fault_of_ours_beside_milvus_lite_is_an_incident_with_its_trace(
    tmp_path: Path, space: Space, tenant: TenantId, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    cars = a_vector(tenant, "ban cars")
    async with MilvusVectors(url=None, data_dir=tmp_path, clock=SystemClock()) as milvus:
        await milvus.upsert(space, [cars])
        monkeypatch.setattr(LiteClient, "search", failing(fault))
        with log_lines() as logs, pytest.raises(Internal):
            await milvus.search(space, tenant, cars.vector, project="", agent="", most=1)
    assert [(line["log_level"], line["exc_info"]) for line in logs] == [("error", fault)]


class SlowSearches:
    """Searches of Milvus Lite that begin, and end when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, threads: int, most: int) -> None:
        self.begun = 0
        self._begins, self.may_end = threading.Event(), threading.Event()
        real = LiteClient.search

        def search(*arguments: Any, **named: Any) -> list[Match]:
            self.begun += 1
            self._begins.set()
            assert self.may_end.wait(timeout=10)
            return real(*arguments, **named)

        monkeypatch.setattr(LiteClient, "search", search)
        monkeypatch.setattr("services.memory.vectors.milvus._SEARCH_THREADS", threads)
        monkeypatch.setattr("services.memory.vectors.milvus._MAX_SEARCHES", most)

    async def until_one_begins(self) -> None:
        assert await asyncio.to_thread(self._begins.wait, 10)


async def test_a_search_counts_until_its_thread_has_ended_whether_or_not_its_asker_has_gone(
    tmp_path: Path, space: Space, tenant: TenantId, monkeypatch: pytest.MonkeyPatch
) -> None:
    cars = a_vector(tenant, "ban cars")
    slow = SlowSearches(monkeypatch, threads=1, most=1)
    async with MilvusVectors(url=None, data_dir=tmp_path, clock=SystemClock()) as milvus:
        await milvus.upsert(space, [cars])
        search = partial(milvus.search, space, tenant, cars.vector, project="", agent="", most=1)
        gone = asyncio.create_task(search())
        await slow.until_one_begins()
        gone.cancel()
        await asyncio.wait((gone,))
        with pytest.raises(VectorsUnavailable):
            await search()
        slow.may_end.set()
        found = None
        async with asyncio.timeout(10):
            while found is None:
                with suppress(VectorsUnavailable):
                    found = await search()
                await asyncio.sleep(0)
        assert (len(found), slow.begun) == (1, 2)


async def test_a_search_that_waits_for_a_thread_is_not_made_when_its_asker_has_gone(
    tmp_path: Path, space: Space, tenant: TenantId, monkeypatch: pytest.MonkeyPatch
) -> None:
    cars = a_vector(tenant, "ban cars")
    slow = SlowSearches(monkeypatch, threads=1, most=2)
    async with MilvusVectors(url=None, data_dir=tmp_path, clock=SystemClock()) as milvus:
        await milvus.upsert(space, [cars])
        search = partial(milvus.search, space, tenant, cars.vector, project="", agent="", most=1)
        stays = asyncio.create_task(search())
        await slow.until_one_begins()
        gone = asyncio.create_task(search())
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait((gone,))
        slow.may_end.set()
        assert len(await stays) == 1
    assert slow.begun == 1


_BUSY = """
import asyncio, sys
from pathlib import Path
from uuid import uuid4
from services.memory.domain.vector import Space
from services.memory.vectors.milvus import MilvusVectors
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import TenantId
from tests.contract.ports.test_memory_vector_store import DIMENSIONS, a_vector, vector_of

async def main() -> None:
    tenant, space = TenantId(uuid4()), Space(model="words", dimensions=DIMENSIONS)
    async with MilvusVectors(url=None, data_dir=Path(sys.argv[1]), clock=SystemClock()) as store:
        await store.upsert(space, [a_vector(tenant, f"tax {number} cars") for number in range(600)])
        found = await store.search(space, tenant, vector_of("tax", DIMENSIONS), project="", agent="", most=5)
        print(len(found), *(heavy in sys.modules for heavy in ("pandas", "pymilvus")))

asyncio.run(main())
"""


async def test_milvus_lite_works_without_pandas_and_pymilvus_which_weigh_as_much_as_the_service(
    tmp_path: Path,
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _BUSY, str(tmp_path)), stdout=asyncio.subprocess.PIPE
    )
    told, _ = await process.communicate()
    assert told.decode().split() == ["5", "False", "False"]
