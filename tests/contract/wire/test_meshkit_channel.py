"""What a call takes along to a neighbour, when it is sent again, and when it is not."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from comitia.policy.v1 import policy_service_pb2 as pb
from comitia.policy.v1 import policy_service_pb2_grpc as rpc
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.errors import ErrorKind, MeshError
from services.meshkit.grpc.call import Call, Drain, enter_call
from services.meshkit.grpc.channel import call_metadata, channel
from services.meshkit.grpc.errors import remote_errors
from services.meshkit.grpc.identity import WorkloadSigner
from services.meshkit.telemetry.scope import Scope, enter_scope
from services.meshkit.testing.mesh_keys import MeshKeys
from tests.integration.conftest import free_port

GET, LIST = "/comitia.policy.v1.BundleService/GetBundle", "/comitia.policy.v1.BundleService/ListBundles"


@dataclass
class Stranger(rpc.BundleServiceServicer):
    """A neighbour without our layers, so that the test sees the bare call."""

    failures: int = 0
    status: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    calls: int = 0
    metadata: dict[str, Any] | None = None
    waits: float | None = None

    async def _answer(self, context: Any) -> None:
        self.calls += 1
        self.metadata = dict(context.invocation_metadata())
        self.waits = context.time_remaining()
        if self.failures:
            self.failures -= 1
            await context.abort(self.status, "not now")

    async def GetBundle(self, request: Any, context: Any) -> pb.GetBundleResponse:
        await self._answer(context)
        return pb.GetBundleResponse()

    async def ListBundles(self, request: Any, context: Any) -> pb.ListBundlesResponse:
        await self._answer(context)
        return pb.ListBundlesResponse()


@pytest.fixture
def stranger() -> Stranger:
    return Stranger()  # pyright: ignore[reportAbstractUsage]  # tests serve the RPCs they need


@pytest.fixture
async def target(stranger: Stranger) -> AsyncIterator[str]:
    server = grpc.aio.server()
    rpc.add_BundleServiceServicer_to_server(stranger, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.fixture
def keys(tmp_path: Path) -> MeshKeys:
    return MeshKeys.make(tmp_path, clock=SystemClock())


@pytest.fixture
def identity(keys: MeshKeys) -> WorkloadSigner:
    return keys.workload("inference")


async def test_a_call_carries_assertion_token_trace_and_session(
    target: str, stranger: Stranger, identity: WorkloadSigner, keys: MeshKeys
) -> None:
    principal = keys.principal()
    traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
    enter_scope(Scope(service="inference", correlation_id="run_1", traceparent=traceparent))
    async with channel(target, identity=identity) as opened:
        await rpc.BundleServiceStub(opened).GetBundle(pb.GetBundleRequest(), metadata=call_metadata(principal))
    assert stranger.metadata is not None
    assert stranger.metadata["authorization"] == f"Bearer {principal.token.reveal()}"
    assert stranger.metadata["comitia-workload"] == identity.assertion()
    assert stranger.metadata["traceparent"] == traceparent
    assert stranger.metadata["x-request-id"] == "run_1"


async def test_no_proxy_of_the_environment_comes_between_neighbours(
    target: str, stranger: Stranger, identity: WorkloadSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "")
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        # Nobody listens there.
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with channel(target, identity=identity) as opened:
        await rpc.BundleServiceStub(opened).GetBundle(pb.GetBundleRequest())
    assert stranger.metadata is not None


async def test_a_call_for_nobody_carries_no_token(target: str, stranger: Stranger, identity: WorkloadSigner) -> None:
    async with channel(target, identity=identity) as opened:
        await rpc.BundleServiceStub(opened).GetBundle(pb.GetBundleRequest())
    assert stranger.metadata is not None
    assert "authorization" not in stranger.metadata


@pytest.mark.parametrize(("asked", "expected"), [(None, 3.0), (1.0, 1.0), (60.0, 3.0)])
async def test_a_call_never_waits_longer_than_its_own_caller(
    target: str,
    stranger: Stranger,
    identity: WorkloadSigner,
    keys: MeshKeys,
    asked: float | None,
    expected: float,
) -> None:
    expires = asyncio.get_running_loop().time() + 3.0
    enter_call(Call(service="x", method="/x", expires=expires, drain=Drain(), admission=keys.admission({})))
    async with channel(target, identity=identity) as opened:
        await rpc.BundleServiceStub(opened).GetBundle(pb.GetBundleRequest(), timeout=asked)
    assert stranger.waits is not None
    assert expected - 0.5 < stranger.waits < expected


async def test_background_work_waits_no_longer_than_the_channel_says(
    target: str, stranger: Stranger, identity: WorkloadSigner
) -> None:
    async with channel(target, identity=identity, timeout_seconds=4.0) as opened:
        await rpc.BundleServiceStub(opened).GetBundle(pb.GetBundleRequest())
    assert stranger.waits is not None
    assert 3.0 < stranger.waits <= 4.0


async def test_an_idempotent_call_is_sent_again_after_unavailable(
    target: str, stranger: Stranger, identity: WorkloadSigner
) -> None:
    stranger.failures = 2
    async with channel(target, identity=identity, idempotent=[GET]) as opened:
        await rpc.BundleServiceStub(opened).GetBundle(pb.GetBundleRequest())
    assert stranger.calls == 3


async def test_what_a_busy_neighbour_refuses_is_reported_so_that_only_the_first_caller_repeats_it(
    target: str, stranger: Stranger, identity: WorkloadSigner
) -> None:
    stranger.failures, stranger.status = 1, grpc.StatusCode.RESOURCE_EXHAUSTED
    async with channel(target, identity=identity, idempotent=[GET]) as opened:
        with pytest.raises(MeshError) as raised, remote_errors():
            await rpc.BundleServiceStub(opened).GetBundle(pb.GetBundleRequest())
    assert (raised.value.kind, stranger.calls) == (ErrorKind.EXHAUSTED, 1)


async def test_another_call_is_sent_once(target: str, stranger: Stranger, identity: WorkloadSigner) -> None:
    stranger.failures = 1
    async with channel(target, identity=identity, idempotent=[GET]) as opened:
        with pytest.raises(MeshError) as raised, remote_errors():
            await rpc.BundleServiceStub(opened).ListBundles(pb.ListBundlesRequest())
    assert (raised.value.kind, stranger.calls) == (ErrorKind.UNAVAILABLE, 1)


async def test_retries_end_when_their_budget_is_used_up(
    target: str, stranger: Stranger, identity: WorkloadSigner
) -> None:
    stranger.failures = 10_000
    async with channel(target, identity=identity, idempotent=[GET, LIST]) as opened:
        stub = rpc.BundleServiceStub(opened)
        for _ in range(15):
            with pytest.raises(MeshError), remote_errors():
                await stub.GetBundle(pb.GetBundleRequest())
    assert stranger.calls < 30


async def test_a_neighbour_that_is_not_there_is_unavailable(identity: WorkloadSigner) -> None:
    async with channel("127.0.0.1:1", identity=identity) as opened:
        with pytest.raises(MeshError) as raised, remote_errors():
            await rpc.BundleServiceStub(opened).GetBundle(pb.GetBundleRequest())
    assert raised.value.kind is ErrorKind.UNAVAILABLE


async def test_a_neighbour_that_is_slow_to_shake_hands_is_waited_for_and_not_called_anew(
    target: str, identity: WorkloadSigner
) -> None:
    connections = 0

    async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while piece := await source.read(65_536):
            sink.write(piece)
            await sink.drain()
        sink.close()

    async def busy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        # A process that starts, or a machine with more to do than it can.
        await asyncio.sleep(0.4)
        host, _, port = target.rpartition(":")
        onward, back = await asyncio.open_connection(host, int(port))
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(carry(reader, back), carry(onward, writer))

    async with await asyncio.start_server(busy, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        async with channel(f"127.0.0.1:{port}", identity=identity) as opened:
            await rpc.BundleServiceStub(opened).GetBundle(pb.GetBundleRequest(), timeout=10, wait_for_ready=True)
    assert connections == 1


async def test_a_new_channel_takes_over_nothing_of_an_older_one(stranger: Stranger, identity: WorkloadSigner) -> None:
    target = f"127.0.0.1:{free_port()}"
    async with channel(target, identity=identity) as early:
        for _ in range(3):  # nobody answers yet, and it pauses longer each time
            with pytest.raises(grpc.aio.AioRpcError):
                await rpc.BundleServiceStub(early).GetBundle(pb.GetBundleRequest(), timeout=1)
        server = grpc.aio.server()
        rpc.add_BundleServiceServicer_to_server(stranger, server)
        server.add_insecure_port(target)
        await server.start()
        try:
            async with channel(target, identity=identity) as late:
                await rpc.BundleServiceStub(late).GetBundle(pb.GetBundleRequest(), timeout=5)
        finally:
            await server.stop(None)
