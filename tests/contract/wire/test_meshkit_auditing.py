"""Which refusals a server hands to its audit trail, and what becomes of those that are too many."""

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc.aio
import pytest
from prometheus_client import REGISTRY

from comitia.guard_table import GUARDS
from comitia.policy.v1 import policy_service_pb2 as pb
from comitia.policy.v1 import policy_service_pb2_grpc as rpc
from services.meshkit.audit.refusals import GroupedRefusals
from services.meshkit.core.audit import AuditDraft
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.errors import Conflict, Exhausted, Internal, Invalid, MeshError, NotFound, Unavailable
from services.meshkit.core.identity import Role, TenantId
from services.meshkit.grpc.channel import call_metadata
from services.meshkit.grpc.guard import Admission
from services.meshkit.grpc.identity import TokenVerifier, VerifiedToken, WorkloadVerifier
from services.meshkit.grpc.server import Server, serve
from services.meshkit.grpc.signed_token import KeySetFile
from services.meshkit.guard.errors import TokenRevoked
from services.meshkit.sql.audit_store import Refused
from services.meshkit.testing.mesh_keys import TENANT, MeshKeys

CURIOUS = TenantId(uuid4())


class Quota(Exhausted):
    """A limit that waiting does not lift."""

    reason = "TEST_QUOTA"


@dataclass
class News:
    """Says that some are revoked, and that one tenant wants to know of refused reads. A `Standing`."""

    revoked: set[str] = field(default_factory=set[str])

    def check(self, verified: VerifiedToken) -> None:
        if verified.principal.subject in self.revoked:
            raise TokenRevoked

    def audits_refused_reads(self, tenant: TenantId) -> bool:
        return tenant == CURIOUS

    def allowed_networks(self, tenant: TenantId) -> tuple[str, ...]:
        return ()

    @contextmanager
    def changed(self, listener: Callable[[TenantId | None], None]) -> Generator[None]:
        yield


@dataclass
class Room:
    """A server that refuses as it is told, and what it recorded."""

    keys: MeshKeys
    stub: rpc.BundleServiceStub
    news: News
    recorded: list[tuple[AuditDraft, str]]
    error: MeshError | None = None

    async def add(self, draft: AuditDraft, reason: str) -> None:
        self.recorded.append((draft, reason))

    async def refused(self, call: str, request: Any, *roles: Role, **who: Any) -> None:
        with pytest.raises(grpc.aio.AioRpcError):
            await getattr(self.stub, call)(request, metadata=call_metadata(self.keys.principal(*roles, **who)))


class Bundles(rpc.BundleServiceServicer):
    def __init__(self, room: Callable[[], Room]) -> None:
        self._room = room

    async def GetBundle(self, request: Any, context: Any) -> Any:
        raise NotFound("bundle", request.bundle)

    async def CreateBundle(self, request: Any, context: Any) -> Any:
        error = self._room().error
        raise error if error is not None else AssertionError("not told what to do")

    async def ListBundles(self, request: Any, context: Any) -> Any:
        raise AssertionError("nobody lists")

    async def ActivateBundle(self, request: Any, context: Any) -> Any:
        raise AssertionError("nobody activates")


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    keys, news = MeshKeys.make(tmp_path, clock=SystemClock()), News()
    rooms: list[Room] = []

    class Log:
        async def add(self, draft: AuditDraft, reason: str) -> None:
            await rooms[0].add(draft, reason)

    admission = Admission(
        GUARDS,
        tokens=TokenVerifier(KeySetFile(keys.jwks_path, clock=keys.clock), clock=keys.clock),
        workloads=WorkloadVerifier(KeySetFile(keys.workload_jwks_path, clock=keys.clock), clock=keys.clock),
        standing=news,
    )
    server = Server(
        name="tested",
        listen="127.0.0.1:0",
        registrations=(partial(rpc.add_BundleServiceServicer_to_server, Bundles(lambda: rooms[0])),),
        admission=admission,
        refusals=Log(),
    )
    async with serve(server) as running, grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as channel:
        rooms.append(Room(keys=keys, stub=rpc.BundleServiceStub(channel), news=news, recorded=[]))
        yield rooms[0]


NEW = pb.CreateBundleRequest(name="house", version="1.0.0")


@pytest.mark.parametrize(
    ("error", "recorded"),
    [
        (NotFound("bundle", "x"), True),
        (Conflict("somebody else was faster"), True),
        (Quota("no more"), True),
        (Exhausted("not now", retry_after=timedelta(seconds=1)), False),
        (Invalid("name", "is wrong"), False),
        (Unavailable("postgres"), False),
        (Internal("ours"), False),
    ],
    ids=lambda one: getattr(one, "reason", None),
)
async def test_what_says_something_about_the_caller_is_recorded(room: Room, error: MeshError, recorded: bool) -> None:
    room.error = error
    await room.refused("CreateBundle", NEW)
    assert [reason for _, reason in room.recorded] == ([error.reason] if recorded else [])


async def test_who_is_turned_away_at_the_door_is_named(room: Room) -> None:
    await room.refused("CreateBundle", NEW, Role.AUDITOR, subject="key_reader")
    room.news.revoked.add("key_gone")
    await room.refused("CreateBundle", NEW, subject="key_gone")
    told = [(draft.tenant, draft.actor, reason) for draft, reason in room.recorded]
    assert told == [(TENANT, "key_reader", "PERMISSION_MISSING"), (TENANT, "key_gone", "TOKEN_REVOKED")]
    assert {draft.action for draft, _ in room.recorded} == {"policies.write"}


async def test_a_token_that_proves_nothing_is_nobodys_refusal(room: Room) -> None:
    for metadata in ((), (("authorization", "Bearer a.b.c"),)):
        with pytest.raises(grpc.aio.AioRpcError):
            await getattr(room.stub, "CreateBundle")(NEW, metadata=metadata)  # noqa: B009  # its type is that of a blocking stub
    assert room.recorded == []


async def test_refused_reads_are_recorded_for_a_tenant_that_wants_it(room: Room) -> None:
    request = pb.GetBundleRequest(bundle="absent")
    await room.refused("GetBundle", request)
    assert room.recorded == []
    await room.refused("GetBundle", request, tenant=CURIOUS)
    ((draft, reason),) = room.recorded
    assert (draft.tenant, draft.action, reason) == (CURIOUS, "policies.read", "NOT_FOUND")


class Store:
    """Writes when it is let, or fails."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.batches: list[int] = []
        self.error: MeshError | None = None

    async def add_refused(self, batch: Sequence[Refused]) -> None:
        await self.open.wait()
        if self.error is not None:
            raise self.error
        self.batches.append(len(batch))


def fates() -> dict[str, float]:
    name = "comitia_audit_refusals_total"
    return {
        fate: REGISTRY.get_sample_value(name, {"service": "tested", "fate": fate}) or 0.0
        for fate in ("written", "late", "grouped", "dropped", "lost")
    }


async def test_refusals_are_written_together_and_those_past_the_bound_later() -> None:
    store: Any = Store()
    before = fates()
    async with GroupedRefusals(store, service="tested", clock=SystemClock()) as log:
        async with asyncio.timeout(20):
            drafts = (AuditDraft(action="a", method="b", tenant=TENANT, actor=f"key_{n}") for n in range(1_500))
            flood = asyncio.gather(*(log.add(draft, "NO") for draft in drafts))
            await asyncio.sleep(0.1)
            store.open.set()
            await flood
    after = {fate: count - before[fate] for fate, count in fates().items()}
    assert after["written"] + after["late"] + after["grouped"] == 1_500 == sum(store.batches)
    assert after["grouped"] >= 400
    assert max(store.batches) == 100


async def test_a_caller_is_answered_in_time_while_the_database_hangs_or_is_away() -> None:
    store: Any = Store()
    before = fates()
    async with GroupedRefusals(store, service="tested", clock=SystemClock()) as log:
        draft = AuditDraft(action="a", method="b", tenant=TENANT)
        async with asyncio.timeout(20):
            await log.add(draft, "NO")
        store.error = Unavailable("postgres")
        store.open.set()
        await log.add(draft, "NO")
    after = {fate: count - before[fate] for fate, count in fates().items()}
    assert (after["late"], after["lost"]) == (1, 1)
