"""Calls that are refused count for their caller, so that nobody can be refused, and recorded, without end."""

from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import grpc.aio
import pytest

from comitia.cost.v1 import budget_service_pb2 as cost_pb
from comitia.cost.v1 import budget_service_pb2_grpc as cost_rpc
from comitia.guard_table import Guard
from comitia.policy.v1 import policy_service_pb2 as pb
from comitia.policy.v1 import policy_service_pb2_grpc as rpc
from services.meshkit.batching.serve_batch import serve_batch
from services.meshkit.batching.stream_session import BatchItem
from services.meshkit.core.audit import AuditDraft
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import Role, TenantId
from services.meshkit.core.rate import LEASE_SECONDS, Ask, Slice
from services.meshkit.grpc.channel import call_metadata, channel
from services.meshkit.grpc.client_address import ClientAddresses
from services.meshkit.grpc.errors import from_status, remote_error
from services.meshkit.grpc.guard import Admission
from services.meshkit.grpc.identity import TokenVerifier, VerifiedToken, WorkloadVerifier
from services.meshkit.grpc.server import Server, serve
from services.meshkit.grpc.signed_token import KeySetFile
from services.meshkit.guard.call_limits import CallLimits
from services.meshkit.guard.concurrency import SeatGate
from services.meshkit.guard.errors import TokenRevoked
from services.meshkit.guard.feed import GuardFeed
from services.meshkit.guard.rate import RateGate
from services.meshkit.testing.mesh_keys import MeshKeys

BUNDLES = "/comitia.policy.v1.BundleService/"
SPEND = "/comitia.cost.v1.BudgetService/BatchSpend"
#: Two calls a second for a tenant, one for a caller.
GUARDS = {
    BUNDLES + "CreateBundle": Guard("policies.write", 2, 5, False, frozenset(), audit=True, per_subject_per_second=1),
    BUNDLES + "GetBundle": Guard("policies.read", 2, 5, False, frozenset({"inference"}), audit=True),
    SPEND: Guard("prices.read", 0, 60, False, frozenset()),
}
#: What a bucket of the fake gateway gives, and no more.
TOKENS = 3
HOME, AWAY = TenantId(UUID(int=1)), TenantId(UUID(int=2))


@dataclass
class LittleBuckets:
    """Gives three tokens of each bucket, and no more for a minute."""

    left: dict[str, int] = field(default_factory=dict[str, int])

    async def __call__(self, asks: Sequence[Ask]) -> list[Slice]:
        return [self._lease(ask) for ask in asks]

    def _lease(self, ask: Ask) -> Slice:
        left = self.left.get(ask.bucket, TOKENS) - ask.spent
        given = max(0, min(ask.tokens, left))
        self.left[ask.bucket] = left - given
        wait = 60 if left - given < 1 else 0
        return Slice(tokens=given, seconds=LEASE_SECONDS, remaining=left - given, wait_seconds=wait)


@dataclass
class News:
    """Says who is revoked, and from where tenants may be used. A `Standing`."""

    revoked: set[str] = field(default_factory=set[str])
    networks: dict[TenantId, tuple[str, ...]] = field(default_factory=dict[TenantId, tuple[str, ...]])

    def check(self, verified: VerifiedToken) -> None:
        if verified.principal.subject in self.revoked:
            raise TokenRevoked

    def audits_refused_reads(self, tenant: TenantId) -> bool:
        return False

    def allowed_networks(self, tenant: TenantId) -> tuple[str, ...]:
        return self.networks.get(tenant, ())

    @contextmanager
    def changed(self, listener: Callable[[TenantId | None], None]) -> Generator[None]:
        yield


class Bundles(rpc.BundleServiceServicer):
    async def CreateBundle(self, request: Any, context: Any) -> Any:
        return pb.CreateBundleResponse()

    async def GetBundle(self, request: Any, context: Any) -> Any:
        return pb.GetBundleResponse()


class Ledger(cost_rpc.BudgetServiceServicer):
    async def BatchSpend(self, request_iterator: Any, context: Any) -> AsyncIterator[cost_pb.BatchSpendResponse]:
        async for frame in serve_batch(request_iterator, self._mark, answers=cost_pb.BatchSpendResponse):
            yield frame

    async def _mark(self, items: Sequence[BatchItem[Any]]) -> list[cost_pb.BatchSpendResponse.Item]:
        return [cost_pb.BatchSpendResponse.Item() for _ in items]


@dataclass(kw_only=True)
class Door:
    """A server whose callers are counted, seen from outside."""

    keys: MeshKeys
    news: News
    opened: grpc.aio.Channel
    target: str
    recorded: list[tuple[AuditDraft, str]]

    async def add(self, draft: AuditDraft, reason: str) -> None:
        self.recorded.append((draft, reason))

    async def reason(self, call: str, *roles: Role, **who: Any) -> str:
        """Makes a call; gives why it was refused, or `done`."""
        stub: Any = rpc.BundleServiceStub(self.opened)
        request = pb.CreateBundleRequest(name="x") if call == "CreateBundle" else pb.GetBundleRequest(bundle="x")
        try:
            await getattr(stub, call)(request, metadata=call_metadata(self.keys.principal(*roles, **who)))
        except grpc.aio.AioRpcError as error:
            return remote_error(error).reason
        return "done"


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    keys, news, clock = MeshKeys.make(tmp_path, clock=SystemClock()), News(), SystemClock()
    recorded: list[tuple[AuditDraft, str]] = []

    class Log:
        async def add(self, draft: AuditDraft, reason: str) -> None:
            recorded.append((draft, reason))

    gate = RateGate(
        LittleBuckets(),
        tenants=GuardFeed(clock=clock),
        addresses=ClientAddresses(),
        service="tested",
        clock=clock,
        dice=Random(1),
    )
    admission = Admission(
        GUARDS,
        tokens=TokenVerifier(KeySetFile(keys.jwks_path, clock=clock), clock=clock),
        workloads=WorkloadVerifier(KeySetFile(keys.workload_jwks_path, clock=clock), clock=clock),
        standing=news,
        limits=CallLimits(gate, SeatGate(100, service="tested")),
    )
    bundles: Any = Bundles()  # pyright: ignore[reportAbstractUsage]
    ledger: Any = Ledger()  # pyright: ignore[reportAbstractUsage]
    server = Server(
        name="tested",
        listen="127.0.0.1:0",
        registrations=(
            partial(rpc.add_BundleServiceServicer_to_server, bundles),
            partial(cost_rpc.add_BudgetServiceServicer_to_server, ledger),
        ),
        admission=admission,
        refusals=Log(),
        background=gate.background,
        drain_seconds=0.5,
    )
    async with serve(server) as running, grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as opened:
        yield Door(keys=keys, news=news, opened=opened, target=f"127.0.0.1:{running.port}", recorded=recorded)


@pytest.mark.parametrize(
    ("call", "reason"),
    [("CreateBundle", "PERMISSION_MISSING"), ("CreateBundle", "TOKEN_REVOKED"), ("GetBundle", "PEER_NOT_ALLOWED")],
)
async def test_refused_calls_count_and_those_past_the_limit_leave_no_entry(door: Door, call: str, reason: str) -> None:
    role = Role.AUDITOR if reason == "PERMISSION_MISSING" else Role.ADMIN
    if reason == "TOKEN_REVOKED":
        door.news.revoked.add("key_greedy")
    told = [await door.reason(call, role, subject="key_greedy") for _ in range(12)]
    assert told == [reason] * TOKENS + ["RATE_LIMITED"] * (12 - TOKENS)
    assert [(draft.actor, why) for draft, why in door.recorded] == [("key_greedy", reason)] * TOKENS


async def test_who_is_refused_from_a_wrong_network_is_counted_too(door: Door) -> None:
    door.news.networks[HOME] = ("192.0.2.0/24",)
    told = [await door.reason("CreateBundle", tenant=HOME) for _ in range(5)]
    assert told == ["NETWORK_NOT_ALLOWED"] * TOKENS + ["RATE_LIMITED"] * 2
    assert await door.reason("CreateBundle", tenant=AWAY) == "done"


async def test_a_refused_caller_hears_how_many_calls_are_left(door: Door) -> None:
    stub: Any = rpc.BundleServiceStub(door.opened)
    call = stub.CreateBundle(pb.CreateBundleRequest(), metadata=call_metadata(door.keys.principal(Role.AUDITOR)))
    assert dict(await call.initial_metadata())["x-ratelimit-limit"] == "1"
    with pytest.raises(grpc.aio.AioRpcError):
        await call


async def test_items_of_a_stream_are_held_against_the_networks_of_their_own_tenants(door: Door) -> None:
    """The tenant that opens the stream may be used from here; one of those that its items speak for may not."""
    door.news.networks[AWAY] = ("192.0.2.0/24",)
    callers = [door.keys.principal(tenant=tenant) for tenant in (HOME, AWAY)]

    async def spend(opened: grpc.aio.Channel) -> list[str]:
        frame = cost_pb.BatchSpendRequest()
        frame.identities.access_tokens.extend(call_metadata(one)[0][1].removeprefix("Bearer ") for one in callers)
        for index in range(2):
            header = frame.items.add().header
            header.item_id, header.identity_index = index + 1, index
        stub: Any = cost_rpc.BudgetServiceStub(opened)
        call = stub.BatchSpend(metadata=call_metadata(callers[0]))
        await call.write(frame)
        await call.done_writing()
        ended = dict[int, str]()
        async for answer in call:
            for item in answer.items:
                failed = item.status.HasField("error")
                ended[item.status.item_id] = from_status(item.status.error).reason if failed else "done"
        return [ended[number] for number in sorted(ended)]

    assert await spend(door.opened) == ["done", "NETWORK_NOT_ALLOWED"]
    async with channel(door.target, identity=door.keys.workload("tools")) as inside:
        assert await spend(inside) == ["done", "done"]
