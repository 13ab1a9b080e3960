"""What cost writes into the audit trail: through real calls, with every layer of the mesh around them."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import grpc.aio
import pytest

from comitia.common.v1 import audit_pb2
from comitia.common.v1.audit_pb2_grpc import AuditFeedServiceStub
from comitia.cost.v1 import budget_service_pb2 as pb
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import Role
from services.meshkit.core.ids import from_uuid
from services.meshkit.crypto.kek_file import create_kek_file
from services.meshkit.grpc.errors import remote_error
from services.meshkit.sql.audit import STREAMS
from services.meshkit.testing.mesh_keys import MeshKeys
from tests.integration.conftest import free_port
from tests.integration.cost.conftest import CostMesh
from tests.support.money import a_run_id

pytestmark = pytest.mark.asyncio(loop_scope="module")

SUCCEEDED, REFUSED = audit_pb2.AUDIT_OUTCOME_SUCCEEDED, audit_pb2.AUDIT_OUTCOME_REFUSED


async def entries(mesh: CostMesh, *, peer: str = "gateway") -> list[audit_pb2.AuditEntry]:
    """Pulls the entries of the test's tenant as the gateway does."""
    stub = AuditFeedServiceStub(mesh.inside)
    metadata = [("comitia-workload", mesh.keys.workload(peer).assertion())]
    known: dict[int, int] = {}
    found: list[audit_pb2.AuditEntry] = []
    while True:
        cursors = [
            audit_pb2.PullAuditEntriesRequest.Cursor(stream=stream, position=position)
            for stream, position in known.items()
        ]
        page = await stub.PullAuditEntries(audit_pb2.PullAuditEntriesRequest(cursors=cursors), metadata=metadata)
        for entry in page.entries:
            known[entry.stream] = entry.position
        found += page.entries
        if not page.more:
            return [entry for entry in found if entry.tenant_id == from_uuid("tenant", mesh.tenant)]


def budget_of_run(run_id: str = "", limit: int = 5_000) -> pb.CreateBudgetRequest:
    return pb.CreateBudgetRequest(run_id=run_id or a_run_id(), limit_nano_usd=limit)


def a_limit(limit: int) -> pb.SetBudgetLimitRequest:
    return pb.SetBudgetLimitRequest(budget_id="tenant", limit_nano_usd=limit)


async def test_a_mutation_leaves_one_entry_that_says_who_what_and_how(mesh: CostMesh) -> None:
    request = pb.SetBudgetLimitRequest(budget_id="tenant", limit_nano_usd=7_000)
    await mesh.caller(Role.ADMIN, peer=None).call("SetBudgetLimit", request)

    (entry,) = await entries(mesh)
    assert entry.service == "cost"
    assert entry.outcome == SUCCEEDED
    assert (entry.actor, entry.peer, entry.reason) == ("key_test", "", "")
    assert (entry.action, entry.method) == ("budgets.limit", "comitia.cost.v1.BudgetService/SetBudgetLimit")
    assert entry.target == from_uuid("budget", mesh.tenant)
    assert dict(entry.details) == {"limit_nano_usd": "7000"}
    assert entry.request_hash == sha256(request.SerializeToString()).digest()


async def test_where_a_call_came_from_is_told_as_the_edge_saw_it(mesh: CostMesh) -> None:
    caller = mesh.caller(Role.ADMIN, peer=None)
    caller._metadata += [("x-forwarded-for", "10.9.8.7, 203.0.113.5"), ("x-request-id", "walk-1")]  # pyright: ignore[reportPrivateUsage]
    await caller.limit(7_000)
    (entry,) = await entries(mesh)
    assert (entry.source_address, entry.correlation_id) == ("203.0.113.5", "walk-1")


async def test_a_service_that_acts_for_somebody_is_named_beside_them(mesh: CostMesh) -> None:
    run = a_run_id()
    caller = mesh.caller(peer="orchestrator", run_id=run)
    await caller.call("CreateBudget", budget_of_run(run_id=run))
    (entry,) = await entries(mesh)
    assert (entry.actor, entry.peer, entry.source_address) == ("key_test", "orchestrator", "")
    assert entry.correlation_id == run
    assert dict(entry.details) == {"limit_nano_usd": "5000", "run_id": run}


async def test_the_same_budget_again_leaves_no_second_entry_and_another_one_is_a_refusal(mesh: CostMesh) -> None:
    caller = mesh.caller(peer="orchestrator")
    request = budget_of_run()
    await caller.call("CreateBudget", request)
    await caller.call("CreateBudget", request)
    assert len(await entries(mesh)) == 1
    refusal = await caller.refused("CreateBudget", budget_of_run(run_id=request.run_id, limit=6_000))
    assert [entry.reason for entry in await entries(mesh) if entry.outcome == REFUSED] == [refusal.partition("/")[2]]


def changed_to(found: list[audit_pb2.AuditEntry]) -> list[tuple[str, str]]:
    """Tells which limits were set, and by which request."""
    done = [entry for entry in found if entry.outcome == SUCCEEDED]
    return sorted((entry.details["limit_nano_usd"], entry.request_id) for entry in done)


async def test_a_repeat_of_a_change_gets_the_first_answer_and_leaves_no_second_entry(mesh: CostMesh) -> None:
    admin = mesh.caller(Role.ADMIN, peer=None)
    await admin.limit(5_000)
    request = a_limit(6_000)
    request.request_id = str(uuid4())
    first = await admin.call("SetBudgetLimit", request)
    assert await admin.call("SetBudgetLimit", request) == first
    assert changed_to(await entries(mesh)) == [("5000", ""), ("6000", request.request_id)]


@pytest.mark.parametrize("role", [Role.AUDITOR, Role.TENANT_USER])
async def test_who_may_not_is_refused_and_on_record_once(mesh: CostMesh, role: Role) -> None:
    assert await mesh.caller(role, peer=None).refused("SetBudgetLimit", a_limit(1)) == ("denied/PERMISSION_MISSING")
    (entry,) = await entries(mesh)
    assert (entry.outcome, entry.reason, entry.actor) == (REFUSED, "PERMISSION_MISSING", "key_test")
    assert entry.action == "budgets.limit"


async def test_what_is_not_there_is_refused_and_on_record_with_its_name(mesh: CostMesh) -> None:
    absent = from_uuid("budget", uuid4())
    request = pb.SetBudgetLimitRequest(budget_id=absent, limit_nano_usd=1)
    assert await mesh.caller(Role.ADMIN, peer=None).refused("SetBudgetLimit", request) == "not_found/BUDGET_NOT_FOUND"
    (entry,) = await entries(mesh)
    assert (entry.outcome, entry.reason, entry.target) == (REFUSED, "BUDGET_NOT_FOUND", absent)


async def test_nonsense_reads_and_strangers_leave_nothing(mesh: CostMesh) -> None:
    admin = mesh.caller(Role.ADMIN, peer=None)
    await admin.refused("SetBudgetLimit", pb.SetBudgetLimitRequest(budget_id="tenant", limit_nano_usd=-1))
    await admin.refused("SetBudgetLimit", pb.SetBudgetLimitRequest(budget_id="nonsense"))
    await admin.budget()
    await admin.refused("GetBudget", pb.GetBudgetRequest(budget_id=from_uuid("budget", uuid4())))
    admin._metadata = [("authorization", "Bearer forged.forged.forged")]  # pyright: ignore[reportPrivateUsage]
    await admin.refused("SetBudgetLimit", a_limit(1))
    assert await entries(mesh) == []


async def test_a_mutation_that_fails_at_its_commit_leaves_nothing(mesh: CostMesh, armed: Callable[[str], None]) -> None:
    admin = mesh.caller(Role.ADMIN, peer=None)
    armed("audit.before_commit=error")
    assert (await admin.refused("SetBudgetLimit", a_limit(1))).startswith("internal")
    armed("")
    assert await entries(mesh) == []
    await admin.limit(9)
    assert [entry.details["limit_nano_usd"] for entry in await entries(mesh)] == ["9"]


async def test_only_the_gateway_reads_the_feed(mesh: CostMesh) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await entries(mesh, peer="inference")
    assert remote_error(caught.value).reason == "PEER_NOT_ALLOWED"
    stub = AuditFeedServiceStub(mesh.inside)
    for wrong in (
        {"cursors": [{"stream": STREAMS}]},
        {"cursors": [{"stream": -1}]},
        {"cursors": [{"position": -1}]},
        {"cursors": [{"stream": 1}, {"stream": 1}]},
        {"cursors": [{}] * (STREAMS + 1)},
        {"page_size": -1},
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.PullAuditEntries(
                audit_pb2.PullAuditEntriesRequest(**wrong),  # type: ignore[arg-type]
                metadata=[("comitia-workload", mesh.keys.workload("gateway").assertion())],
            )
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_flood_of_refusals_is_one_entry_and_the_rest_is_counted_for_another(mesh: CostMesh) -> None:
    """The entry that counts follows within a minute; whoever is refused something else has an entry at once."""
    auditor = mesh.caller(Role.AUDITOR, peer=None)
    request = a_limit(1)
    refusals = await asyncio.gather(*(auditor.refused("SetBudgetLimit", request) for _ in range(300)))
    assert set(refusals) == {"denied/PERMISSION_MISSING"}
    absent = pb.SetBudgetLimitRequest(budget_id=from_uuid("budget", uuid4()), limit_nano_usd=1)
    await mesh.caller(Role.ADMIN, peer=None).refused("SetBudgetLimit", absent)
    reasons = [entry.reason for entry in await entries(mesh)]
    assert sorted(reasons) == ["BUDGET_NOT_FOUND", "PERMISSION_MISSING"]


@asynccontextmanager
async def cost_process(mesh: CostMesh, folder: Path, **changes: str) -> AsyncIterator[tuple[CostMesh, Process]]:
    """Runs cost as a process of its own on the mesh's database, killed at the end if it lives."""
    port = free_port()
    create_kek_file(folder / "kek")
    settings = {
        "listen": f"127.0.0.1:{port}",
        "database_url": mesh.urls.app,
        "maintenance_database_url": mesh.urls.maintenance,
        "nats_url": f"nats://127.0.0.1:{free_port()}",
        "jwks_path": str(mesh.keys.jwks_path),
        "workload_key_path": str(mesh.keys.key_path("cost")),
        "workload_jwks_path": str(mesh.keys.workload_jwks_path),
        "guard_path": str(mesh.keys.guard_path),
        "kek_path": str(folder / "kek"),
        "gateway_target": f"127.0.0.1:{free_port()}",
        **changes,
    }
    environment = dict(os.environ) | {f"COMITIA_COST_{name.upper()}": value for name, value in settings.items()}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.cost", env=environment, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            async with asyncio.timeout(30):
                await channel.channel_ready()
            yield replace(mesh, inside=channel), process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_service_killed_between_entry_and_commit_leaves_neither_and_no_gap(
    mesh: CostMesh, tmp_path: Path
) -> None:
    keys = MeshKeys.read(mesh.keys.folder, clock=SystemClock())
    mesh = replace(mesh, keys=keys)
    async with cost_process(mesh, tmp_path, failpoints="audit.before_commit=kill@3") as (dying, process):
        admin = dying.caller(Role.ADMIN, peer=None)
        await admin.limit(1)
        await admin.limit(2)
        assert (await admin.refused("SetBudgetLimit", a_limit(3))).startswith("unavailable")
        assert await process.wait() == -signal.SIGKILL
    async with cost_process(mesh, tmp_path) as (living, _):
        admin = living.caller(Role.ADMIN, peer=None)
        assert (await admin.budget()).limit_nano_usd == 2
        await admin.limit(4)
        told = await entries(living)
    assert sorted(entry.details["limit_nano_usd"] for entry in told) == ["1", "2", "4"]
