"""Nothing is lost, and nothing is remembered twice: crashes at each failpoint, and a vector store that lost it all."""

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from pydantic import SecretStr

from services.memory.domain.vector import Space
from services.memory.storage.tables import METADATA
from services.memory.vectors.lite_client import LiteClient
from services.memory.vectors.milvus import MilvusVectors
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.errors import Unavailable
from services.meshkit.sql.catalogue import audit_catalogue
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import drift, migrate
from services.meshkit.sql.scope import maintenance_scope
from services.meshkit.testing.mesh_keys import TENANT
from tests.integration.conftest import MakeDatabase, free_port
from tests.integration.memory.conftest import (
    MemoryMesh,
    Neighbours,
    StartMemory,
    a_context,
    a_remember,
    settings_of,
    until,
)
from tests.support.fault_rows import note
from tests.support.milvus_server import milvus_server

SPACE = Space("hashing-384", 384)


@asynccontextmanager
async def memory_process(
    around: Neighbours, **changes: Any
) -> AsyncIterator[tuple[MemoryMesh, asyncio.subprocess.Process]]:
    """Runs memory as a process of its own, killed at the end if it lives."""
    port = free_port()
    settings = settings_of(around, listen=f"127.0.0.1:{port}", **changes)
    environment = dict(os.environ)
    for name, value in settings:
        if value is not None:
            plain = value.get_secret_value() if isinstance(value, SecretStr) else value
            # Lists are read as JSON.
            text = json.dumps([str(item) for item in plain]) if isinstance(plain, tuple) else str(plain)
            environment[f"COMITIA_MEMORY_{name.upper()}"] = text
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.memory", env=environment, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            async with asyncio.timeout(30):
                await channel.channel_ready()
            yield MemoryMesh(around=around, channel=channel, principal=around.keys.principal(tenant=TENANT)), process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize(
    "failpoint",
    [
        # Each takes seconds: two processes come and go.
        pytest.param("memory.before_commit", marks=pytest.mark.faults),
        "memory.after_commit",
        pytest.param("memory.after_upsert", marks=pytest.mark.faults),
    ],
)
async def test_a_crash_and_a_retry_leave_one_memory_that_is_found(around: Neighbours, failpoint: str) -> None:
    request = a_remember("ban cars", context=a_context("rounds/1/Athena"))
    note("killed at a failpoint", "memory")
    async with memory_process(around, failpoints=f"{failpoint}=kill") as (mesh, process):
        if failpoint == "memory.after_upsert":
            await mesh.call("Remember", request)
        else:
            assert (await mesh.refused("Remember", request)).startswith("unavailable/")
        assert await asyncio.wait_for(process.wait(), 30) == -signal.SIGKILL
    async with memory_process(around) as (mesh, process):
        made = (await mesh.call("Remember", request)).memory
        assert (await mesh.call("Remember", request)).memory.memory_id == made.memory_id

        async def found_once() -> bool:
            answer = await mesh.recall("ban cars", semantic_matches=5)
            return [match.memory.memory_id for match in answer.semantic] == [made.memory_id]

        await until(found_once)
        assert [memory.memory_id for memory in (await mesh.page()).memories] == [made.memory_id]
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 15) == 0


async def test_what_a_crash_left_is_embedded_at_the_next_recall(around: Neighbours, start_memory: StartMemory) -> None:
    async with memory_process(around, failpoints="memory.after_commit=kill@3") as (mesh, process):
        for number in range(3):
            around.inference.faults.next(Unavailable("provider"))
            await asyncio.gather(
                mesh.call("Remember", a_remember(f"memory {number}", context=a_context())), return_exceptions=True
            )
        await process.wait()
    around.inference.faults = type(around.inference.faults)()
    async with start_memory() as mesh:

        async def all_embedded() -> bool:
            await mesh.recall(recent_turns=1)
            return [memory.embedded for memory in (await mesh.page()).memories] == [True] * 3

        await until(all_embedded)


async def test_a_lost_vector_store_is_filled_again_without_asking_inference(
    around: Neighbours, start_memory: StartMemory
) -> None:
    async with start_memory() as mesh:
        made = [await mesh.remember(f"ban cars {number}") for number in range(3)]
        await mesh.embedded(*made)
    asked = len(around.inference.asked)
    shutil.rmtree(around.folder / "vectors")
    async with start_memory() as mesh:
        await _until_found(mesh, 3)
        # Found as soon as they are in the store, and marked right after.
        await mesh.embedded(*made)
    assert [text for _, request in around.inference.asked[asked:] for text in request.texts] == ["ban cars"]


async def test_a_collection_dropped_under_way_is_missed_and_filled(
    around: Neighbours, start_memory: StartMemory
) -> None:
    with milvus_server(around.folder / "server") as url:
        intruder = MilvusVectors(url=url, data_dir=around.folder, clock=SystemClock())
        async with start_memory(milvus_url=SecretStr(url)) as mesh, intruder:
            await mesh.embedded(*[await mesh.remember(f"ban cars {number}") for number in range(3)])
            await intruder.drop(SPACE)
            answer = await mesh.recall("ban cars", semantic_matches=5)
            assert answer.semantic_skipped or len(answer.semantic) == 3
            await _until_found(mesh, 3)


async def test_what_a_store_that_is_away_misses_is_placed_when_it_is_back(
    mesh: MemoryMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = [True]
    real = LiteClient.upsert

    def upsert(self: LiteClient, space: Space, vectors: Any) -> None:
        if away:
            raise OSError("no route to the vector store")
        real(self, space, vectors)

    monkeypatch.setattr(LiteClient, "upsert", upsert)
    await mesh.remember("ban cars 0")

    async def recorded() -> bool:
        return [row.placement for row in await mesh.rows("placement")] == [2]

    await until(recorded)
    assert (await mesh.recall("ban cars", semantic_matches=5)).semantic_skipped is False
    away.clear()
    await _until_found(mesh, 1)
    assert mesh.around.inference.texts.count("ban cars 0") == 1


async def test_tables_are_as_the_migrations_make_them_and_guarded(make_database: MakeDatabase) -> None:
    urls = await make_database("memory")
    await migrate("services.memory", urls.migrator)
    assert not await drift("services.memory", urls.migrator, METADATA)
    async with sql_engine(urls.maintenance, pool_size=1) as engine, maintenance_scope(engine) as scope:
        guards = await audit_catalogue(scope)
    assert {guard.name for guard in guards} >= {"memory", "data_key"}
    assert [fault for guard in guards for fault in guard.faults] == []
    await migrate("services.memory", urls.migrator, to="base", back=True)
    await migrate("services.memory", urls.migrator)


async def _until_found(mesh: MemoryMesh, count: int) -> None:
    async def found() -> bool:
        answer = await mesh.recall("ban cars", semantic_matches=10)
        return len(answer.semantic) == count

    await until(found, seconds=30)
