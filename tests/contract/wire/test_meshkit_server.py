"""A server of the mesh through a real socket: guard, deadline, errors, reflection, health, drain."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import REGISTRY

from comitia.policy.v1 import policy_pb2 as pb_policy
from comitia.policy.v1 import policy_service_pb2 as pb
from comitia.policy.v1 import policy_service_pb2_grpc as rpc
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.errors import ErrorKind, MeshError, NotFound
from services.meshkit.core.identity import Role
from services.meshkit.grpc.call import Drain, caller_of, current_call, peer_of, seconds_left
from services.meshkit.grpc.channel import call_metadata, channel
from services.meshkit.grpc.errors import DETAILS_TRAILER, remote_errors
from services.meshkit.grpc.server import AddressTaken, Server, serve
from services.meshkit.telemetry import names
from services.meshkit.telemetry.logs import setup_logs
from services.meshkit.telemetry.scope import current_scope
from services.meshkit.telemetry.tracing import end_tracing, setup_tracing
from services.meshkit.testing.local_server import LocalServer, local_server
from tests.support.otlp import Receiver, running_receiver

GRPCURL = Path(__file__).parents[3] / ".venv/bin/grpcurl"
BUNDLES = "/comitia.policy.v1.BundleService/"
WATCH = "/comitia.policy.v1.ViolationService/WatchViolations"


#: Long enough to tell it from any other wait.
NOTICE_SECONDS = 77.0
#: Nothing takes so long to end by itself, on no machine.
_DRAIN_SECONDS = 30.0


class LeavingClock(SystemClock):
    """A machine's clock on which callers take as long to notice that a server leaves as the test says."""

    def __init__(self) -> None:
        self.noticing = asyncio.Event()
        self.noticed = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        if seconds == NOTICE_SECONDS:
            self.noticing.set()
            await self.noticed.wait()
        else:
            await super().sleep(seconds)


@dataclass(frozen=True)
class Guard:
    """A row of a guard table."""

    permission: str = ""
    max_seconds: int = 0
    open: bool = False
    audit: bool = False
    audit_read: bool = False
    peers: frozenset[str] = frozenset()
    per_tenant_per_second: int = 0
    per_subject_per_second: int = 0
    per_address_per_second: int = 0
    per_tenant_in_progress: int = 0
    of_project: bool = False


GUARDS = {
    BUNDLES + "GetBundle": Guard("policies.read", of_project=True),
    BUNDLES + "CreateBundle": Guard("policies.write", max_seconds=1),
    BUNDLES + "ListBundles": Guard("policies.read", peers=frozenset({"inference"})),
    WATCH: Guard(open=True, max_seconds=3600),
}


class BundleServicer(rpc.BundleServiceServicer):
    """Does what the name in the request says."""

    def __init__(self) -> None:
        self.finished = 0

    async def GetBundle(self, request: pb.GetBundleRequest, context: Any) -> pb.GetBundleResponse:
        caller = caller_of(context)
        match request.bundle:
            case "absent":
                raise NotFound("bundle", "absent")
            case "broken":
                raise ZeroDivisionError("the secret is 42")
            case "slow":
                await asyncio.sleep(0.3)
                self.finished += 1
            case "abort":
                await context.abort(grpc.StatusCode.DATA_LOSS, "by hand")
            case _:
                pass
        said = {
            "subject": caller.principal.subject,
            "peer": caller.peer,
            "left": seconds_left(),
            "traceparent": current_scope().traceparent,
        }
        answer = pb.GetBundleResponse()
        answer.bundle.name = json.dumps(said)
        return answer

    async def CreateBundle(self, request: pb.CreateBundleRequest, context: Any) -> pb.CreateBundleResponse:
        await asyncio.sleep(30)
        return pb.CreateBundleResponse()

    async def ListBundles(self, request: pb.ListBundlesRequest, context: Any) -> pb.ListBundlesResponse:
        return pb.ListBundlesResponse(next_page_token=str(peer_of(context)))

    async def ActivateBundle(self, request: pb.ActivateBundleRequest, context: Any) -> pb.ActivateBundleResponse:
        raise AssertionError("an RPC without a guard was served")


class ViolationServicer(rpc.ViolationServiceServicer):
    """Streams until it is told to stop."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        #: True to send more than a caller who reads nothing lets through.
        self.floods = False

    async def ListViolations(self, request: Any, context: Any) -> pb.ListViolationsResponse:
        return pb.ListViolationsResponse()

    async def WatchViolations(
        self, request: pb.WatchViolationsRequest, context: Any
    ) -> AsyncIterator[pb.WatchViolationsResponse]:
        call = current_call()
        assert call is not None
        draining = asyncio.Event()
        with call.drain.notify(draining.set):
            try:
                yield pb.WatchViolationsResponse()
                while self.floods:
                    yield pb.WatchViolationsResponse(violation=pb_policy.Violation(rule="x" * 1_000_000))
                await draining.wait()
                self.ended.append("drained")
            except asyncio.CancelledError:
                self.ended.append("cancelled")
                raise


@pytest.fixture(autouse=True, scope="module")
def _logs() -> None:
    # As in a service; unconfigured, structlog paints every stack with its locals, which takes seconds.
    setup_logs("error")


@pytest.fixture
def bundles() -> BundleServicer:
    return BundleServicer()


@pytest.fixture
def violations() -> ViolationServicer:
    return ViolationServicer()


@pytest.fixture
async def server(tmp_path: Path, bundles: BundleServicer, violations: ViolationServicer) -> AsyncIterator[LocalServer]:
    async with serving(tmp_path, bundles, violations) as running:
        yield running


@asynccontextmanager
async def serving(
    folder: Path, bundles: BundleServicer, violations: ViolationServicer, *, drain_seconds: float = 2.0
) -> AsyncIterator[LocalServer]:
    async with local_server(
        partial(rpc.add_BundleServiceServicer_to_server, bundles),
        partial(rpc.add_ViolationServiceServicer_to_server, violations),
        guards=GUARDS,
        folder=folder,
        name="policy",
        drain_seconds=drain_seconds,
    ) as running:
        yield running


async def failure_of(call: Any) -> MeshError:
    with pytest.raises(MeshError) as raised, remote_errors():
        await call
    return raised.value


def health_stub(opened: grpc.aio.Channel) -> Any:
    # The package is not typed.
    return health_pb2_grpc.HealthStub(opened)


def get_bundle(server: LocalServer, name: str = "", **options: Any) -> Any:
    return rpc.BundleServiceStub(server.channel).GetBundle(pb.GetBundleRequest(bundle=name), **options)


class TestGuard:
    async def test_a_caller_with_the_permission_is_let_in_and_known(self, server: LocalServer) -> None:
        answer = await get_bundle(server, metadata=call_metadata(server.keys.principal(Role.AUDITOR)))
        said = json.loads(answer.bundle.name)
        assert (said["subject"], said["peer"]) == ("key_test", "inference")

    async def test_a_call_without_a_token_is_unauthenticated(self, server: LocalServer) -> None:
        error = await failure_of(get_bundle(server))
        assert (error.kind, error.reason) == (ErrorKind.UNAUTHENTICATED, "TOKEN_MISSING")

    @pytest.mark.parametrize("header", ["Bearer nonsense", "Bearer ", "bearer x.y.z", "Bearer ck_1_secret"])
    async def test_a_token_that_is_none_is_unauthenticated(self, server: LocalServer, header: str) -> None:
        error = await failure_of(get_bundle(server, metadata=(("authorization", header),)))
        assert (error.kind, error.reason) == (ErrorKind.UNAUTHENTICATED, "TOKEN_INVALID")

    async def test_a_role_without_the_permission_is_denied(self, server: LocalServer) -> None:
        metadata = call_metadata(server.keys.principal(Role.OPERATOR))
        error = await failure_of(get_bundle(server, metadata=metadata))
        assert (error.kind, error.reason) == (ErrorKind.DENIED, "PERMISSION_MISSING")
        assert error.metadata == {"permission": "policies.read"}
        assert error.message == (
            "this needs the permission 'policies.read', which the role admin or auditor or tenant_user grants; "
            "ask an administrator of your tenant for it"
        )

    async def test_a_scope_narrows_what_a_role_grants(self, server: LocalServer) -> None:
        narrowed = server.keys.principal(Role.ADMIN, scopes=frozenset({"policies.write"}))
        error = await failure_of(get_bundle(server, metadata=call_metadata(narrowed)))
        assert error.reason == "PERMISSION_MISSING"
        assert error.message.endswith("but your API key is narrowed to others; use another key")

    async def test_a_scope_grants_nothing_that_no_role_grants(self, server: LocalServer) -> None:
        widened = server.keys.principal(Role.OPERATOR, scopes=frozenset({"policies.read"}))
        error = await failure_of(get_bundle(server, metadata=call_metadata(widened)))
        assert error.reason == "PERMISSION_MISSING"

    async def test_an_rpc_without_a_guard_is_refused(self, server: LocalServer) -> None:
        call = rpc.BundleServiceStub(server.channel).ActivateBundle(
            pb.ActivateBundleRequest(), metadata=call_metadata(server.keys.principal())
        )
        error = await failure_of(call)
        assert (error.kind, error.reason) == (ErrorKind.INTERNAL, "GUARD_MISSING")

    @pytest.mark.parametrize(("peer", "allowed"), [("inference", True), ("memory", False)])
    async def test_an_internal_rpc_is_open_to_its_peers_only(
        self, server: LocalServer, peer: str, allowed: bool
    ) -> None:
        async with channel(server.target, identity=server.keys.workload(peer)) as opened:
            call = rpc.BundleServiceStub(opened).ListBundles(
                pb.ListBundlesRequest(), metadata=call_metadata(server.keys.principal())
            )
            if allowed:
                assert (await call).next_page_token == peer
            else:
                assert (await failure_of(call)).reason == "PEER_NOT_ALLOWED"

    async def test_behind_the_public_doors_roles_bind_and_scopes_do_not(self, server: LocalServer) -> None:
        internal = rpc.BundleServiceStub(server.channel).ListBundles
        narrowed = server.keys.principal(Role.ADMIN, scopes=frozenset({"sessions.start"}))
        assert (await internal(pb.ListBundlesRequest(), metadata=call_metadata(narrowed))).next_page_token
        without_role = call_metadata(server.keys.principal(Role.OPERATOR))
        error = await failure_of(internal(pb.ListBundlesRequest(), metadata=without_role))
        assert error.reason == "PERMISSION_MISSING"
        async with grpc.aio.insecure_channel(server.target) as outside:
            call = rpc.BundleServiceStub(outside).ListBundles(pb.ListBundlesRequest(), metadata=call_metadata(narrowed))
            assert (await failure_of(call)).reason == "PEER_NOT_ALLOWED"

    async def test_who_is_bound_to_a_project_is_let_in_where_that_is_annotated(self, server: LocalServer) -> None:
        bundles = rpc.BundleServiceStub(server.channel)
        bound = server.keys.principal(Role.ADMIN, project="claims")
        error = await failure_of(bundles.CreateBundle(pb.CreateBundleRequest(), metadata=call_metadata(bound)))
        assert (error.kind, error.reason) == (ErrorKind.DENIED, "BOUND_TO_PROJECT")
        assert error.metadata == {"project": "claims"}
        await bundles.GetBundle(pb.GetBundleRequest(), metadata=call_metadata(bound))
        # A service that acts for a run of the project does what the run needs; nobody else does with its token.
        run = call_metadata(server.keys.principal(Role.ADMIN, project="claims", run_id="run_1"))
        let_in = bundles.CreateBundle(pb.CreateBundleRequest(), metadata=run, timeout=0.1)
        assert (await failure_of(let_in)).kind is ErrorKind.DEADLINE
        async with grpc.aio.insecure_channel(server.target) as outside:
            call = rpc.BundleServiceStub(outside).CreateBundle(pb.CreateBundleRequest(), metadata=run)
            assert (await failure_of(call)).reason == "BOUND_TO_PROJECT"

    async def test_an_internal_rpc_is_closed_to_the_outside(self, server: LocalServer) -> None:
        async with grpc.aio.insecure_channel(server.target) as outside:
            call = rpc.BundleServiceStub(outside).ListBundles(
                pb.ListBundlesRequest(), metadata=call_metadata(server.keys.principal())
            )
            assert (await failure_of(call)).reason == "PEER_NOT_ALLOWED"

    async def test_an_internal_rpc_needs_the_token_of_a_tenant_too(self, server: LocalServer) -> None:
        call = rpc.BundleServiceStub(server.channel).ListBundles(pb.ListBundlesRequest())
        assert (await failure_of(call)).reason == "TOKEN_MISSING"

    async def test_a_forged_assertion_is_refused_even_where_none_is_needed(self, server: LocalServer) -> None:
        metadata = (*call_metadata(server.keys.principal()), ("comitia-workload", "a.b.c"))
        async with grpc.aio.insecure_channel(server.target) as outside:
            call = rpc.BundleServiceStub(outside).GetBundle(pb.GetBundleRequest(), metadata=metadata)
            assert (await failure_of(call)).reason == "WORKLOAD_INVALID"


RECORDED = f"00-{'a' * 32}-{'b' * 16}-01"


class TestTraces:
    """None that begins here is recorded."""

    @pytest.fixture(autouse=True)
    def receiver(self) -> Iterator[Receiver]:
        with running_receiver() as running:
            setup_tracing("policy", running.url, ratio=0.0)
            yield running
            end_tracing()

    async def test_a_neighbour_says_what_is_recorded_and_nobody_else_does(
        self, server: LocalServer, receiver: Receiver
    ) -> None:
        metadata = (*call_metadata(server.keys.principal()), ("traceparent", RECORDED))
        answer = await get_bundle(server, metadata=metadata)
        of_neighbour = json.loads(answer.bundle.name)["traceparent"]
        async with grpc.aio.insecure_channel(server.target) as outside:
            answer = await rpc.BundleServiceStub(outside).GetBundle(pb.GetBundleRequest(), metadata=metadata)
        of_outside = json.loads(answer.bundle.name)["traceparent"]
        end_tracing()
        [span] = receiver.spans
        assert (span.trace_id, span.parent_id, span.name) == ("a" * 32, "b" * 16, BUNDLES + "GetBundle")
        assert of_neighbour == f"00-{'a' * 32}-{span.span_id}-01"
        assert of_outside == RECORDED[:-2] + "00"

    @pytest.mark.parametrize("assertions", [["a.b.c"], ["a.b.c", "d.e.f"]])
    async def test_who_only_claims_to_be_a_neighbour_decides_nothing(
        self, server: LocalServer, receiver: Receiver, assertions: list[str]
    ) -> None:
        forged = (("comitia-workload", assertion) for assertion in assertions)
        async with grpc.aio.insecure_channel(server.target) as outside:
            get = rpc.BundleServiceStub(outside).GetBundle
            call = get(pb.GetBundleRequest(), metadata=(*forged, ("traceparent", RECORDED)))
            assert (await failure_of(call)).reason == "WORKLOAD_INVALID"
        end_tracing()
        assert receiver.spans == []


class TestErrors:
    async def test_an_error_of_ours_arrives_with_its_details(self, server: LocalServer) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await get_bundle(server, "absent", metadata=call_metadata(server.keys.principal()))
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
        details: Any = dict(raised.value.trailing_metadata())[DETAILS_TRAILER]
        status = status_pb2.Status.FromString(details)
        info, resource = error_details_pb2.ErrorInfo(), error_details_pb2.ResourceInfo()
        assert status.details[0].Unpack(info)
        assert status.details[1].Unpack(resource)
        assert (info.reason, info.domain) == ("NOT_FOUND", "policy.comitia")
        assert (resource.resource_type, resource.resource_name) == ("bundle", "absent")

    async def test_an_unexpected_error_shows_an_incident_and_no_cause(self, server: LocalServer) -> None:
        error = await failure_of(get_bundle(server, "broken", metadata=call_metadata(server.keys.principal())))
        assert error.kind is ErrorKind.INTERNAL
        assert len(error.metadata["incident_id"]) == 32
        assert error.metadata["incident_id"] in error.message
        assert "secret" not in error.message

    async def test_an_abort_by_hand_passes_through(self, server: LocalServer) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await get_bundle(server, "abort", metadata=call_metadata(server.keys.principal()))
        assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.DATA_LOSS, "by hand")

    @pytest.mark.parametrize(
        ("raw", "field"),
        [(b"\x0a\x02\xff\xfe", "bundle"), (b"\x0a\x7f", "request"), (b"\xff\xff\xff", "request")],
    )
    async def test_bytes_that_cannot_be_read_are_the_callers_error(
        self, server: LocalServer, raw: bytes, field: str
    ) -> None:
        call = server.channel.unary_unary(BUNDLES + "GetBundle")
        error = await failure_of(call(raw, metadata=call_metadata(server.keys.principal())))
        assert (error.kind, error.reason, error.field) == (ErrorKind.INVALID, "MALFORMED_REQUEST", field)

    async def test_a_message_beyond_the_limit_is_refused_with_the_limit(self, server: LocalServer) -> None:
        raw = pb.GetBundleRequest(bundle="x" * 5_000_000).SerializeToString()
        async with grpc.aio.insecure_channel(server.target) as outside:
            call: Any = outside.unary_unary(BUNDLES + "GetBundle")
            error = await failure_of(call(raw, metadata=call_metadata(server.keys.principal())))
        assert (error.kind, error.reason) == (ErrorKind.INVALID, "REQUEST_TOO_LARGE")
        assert error.metadata == {"limit_bytes": str(4 * 1024 * 1024)}

    async def test_a_stranger_learns_nothing_from_malformed_bytes(self, server: LocalServer) -> None:
        error = await failure_of(server.channel.unary_unary(BUNDLES + "GetBundle")(b"\xff"))
        assert error.reason == "TOKEN_MISSING"

    async def test_calls_are_counted_by_method_and_code(self, server: LocalServer) -> None:
        before = counted(BUNDLES + "GetBundle", "NOT_FOUND")
        await failure_of(get_bundle(server, "absent", metadata=call_metadata(server.keys.principal())))
        assert counted(BUNDLES + "GetBundle", "NOT_FOUND") == before + 1

    async def test_a_caller_whose_connection_breaks_under_an_answer_is_no_incident(
        self, server: LocalServer, violations: ViolationServicer, capfd: pytest.CaptureFixture[str]
    ) -> None:
        violations.floods = True
        before = counted(WATCH, "CANCELLED")
        for n in range(1, 6):
            async with cut_off_soon(server.target) as address, grpc.aio.insecure_channel(address) as outside:
                watch = rpc.ViolationServiceStub(outside).WatchViolations(pb.WatchViolationsRequest())
                assert await watch.read() is not None
                await until_counted(WATCH, "CANCELLED", before + n)
        assert "incident" not in "".join(capfd.readouterr())


def counted(method: str, code: str) -> float:
    labels = {"method": method, "code": code}
    return REGISTRY.get_sample_value(names.RPC_SERVER_DURATION_SECONDS + "_count", labels) or 0


async def until_counted(method: str, code: str, many: float) -> None:
    async with asyncio.timeout(5):
        while counted(method, code) < many:  # noqa: ASYNC110  # what it waits for happens in gRPC
            await asyncio.sleep(0.005)


@asynccontextmanager
async def cut_off_soon(target: str) -> AsyncIterator[str]:
    """Gives an address from which a server is reached by whoever takes little; the connection breaks after that."""

    async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter, most: int) -> None:
        while most > 0 and (data := await source.read(1 << 16)):
            most -= len(data)
            sink.write(data)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = target.rpartition(":")
        onward, back = await asyncio.open_connection(host, int(port))
        asking = asyncio.create_task(carry(reader, back, 1 << 30))
        await carry(onward, writer, 1 << 20)
        asking.cancel()
        for broken in (back, writer):
            broken.transport.abort()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as proxy:
        yield f"127.0.0.1:{proxy.sockets[0].getsockname()[1]}"


class TestDeadline:
    async def test_the_deadline_of_the_client_reaches_the_servicer(self, server: LocalServer) -> None:
        metadata = call_metadata(server.keys.principal())
        answer = await get_bundle(server, timeout=7, metadata=metadata)
        assert 6 < json.loads(answer.bundle.name)["left"] <= 7

    async def test_a_client_that_waits_forever_is_bounded_by_the_guard(self, server: LocalServer) -> None:
        metadata = call_metadata(server.keys.principal())
        call = rpc.BundleServiceStub(server.channel).CreateBundle(pb.CreateBundleRequest(), metadata=metadata)
        error = await failure_of(call)
        assert (error.kind, error.reason) == (ErrorKind.DEADLINE, "DEADLINE_EXCEEDED")

    async def test_a_client_that_stops_waiting_gets_its_deadline(self, server: LocalServer) -> None:
        metadata = call_metadata(server.keys.principal())
        error = await failure_of(get_bundle(server, "slow", timeout=0.05, metadata=metadata))
        assert error.kind is ErrorKind.DEADLINE


class TestReflectionAndHealth:
    async def grpcurl(self, *arguments: str) -> str:
        # The fork handler of gRPC talks on standard error when a process is started beside a running server.
        process = await asyncio.create_subprocess_exec(
            GRPCURL, "-plaintext", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(20):
            output, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        return output.decode()

    async def test_grpcurl_lists_the_services_unconfigured(self, server: LocalServer) -> None:
        assert (await self.grpcurl(server.target, "list")).split() == [
            "comitia.policy.v1.BundleService",
            "comitia.policy.v1.ViolationService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        ]

    @pytest.mark.parametrize("service", ["comitia.policy.v1.BundleService", "grpc.reflection.v1.ServerReflection"])
    async def test_grpcurl_describes_a_service(self, server: LocalServer, service: str) -> None:
        assert f"{service} is a service" in await self.grpcurl(server.target, "describe", service)

    @pytest.mark.parametrize(
        ("symbol", "kind"),
        [
            ("comitia.policy.v1.BundleService.GetBundle", "a method"),
            ("comitia.policy.v1.Bundle.version", "a field"),
            ("comitia.policy.v1.Severity.SEVERITY_MAJOR", "an enum value"),
        ],
    )
    async def test_grpcurl_describes_what_is_inside(self, server: LocalServer, symbol: str, kind: str) -> None:
        assert f"{symbol} is {kind}" in await self.grpcurl(server.target, "describe", symbol)

    async def test_grpcurl_calls_with_a_token(self, server: LocalServer) -> None:
        header = f"authorization: Bearer {server.keys.principal().token.reveal()}"
        answer = await self.grpcurl("-H", header, server.target, "comitia.policy.v1.BundleService/GetBundle")
        assert "key_test" in answer

    @pytest.mark.parametrize("version", ["v1", "v1alpha"])
    async def test_both_versions_of_reflection_answer(self, server: LocalServer, version: str) -> None:
        from grpc_reflection.v1alpha import reflection_pb2

        async with grpc.aio.insecure_channel(server.target) as outside:
            ask = outside.stream_stream(
                f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
                response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
            )
            symbol = f"grpc.reflection.{version}.ServerReflection"
            requests = [
                reflection_pb2.ServerReflectionRequest(list_services=""),
                reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol),
            ]
            answers = [answer async for answer in ask(iter(requests))]
        assert "comitia.policy.v1.BundleService" in [
            service.name for service in answers[0].list_services_response.service
        ]
        assert f"grpc.reflection.{version}".encode() in answers[1].file_descriptor_response.file_descriptor_proto[0]

    @pytest.mark.parametrize("service", ["", "comitia.policy.v1.BundleService"])
    async def test_health_answers_for_all_and_for_each(self, server: LocalServer, service: str) -> None:
        async with grpc.aio.insecure_channel(server.target) as outside:
            health = health_stub(outside)
            async with asyncio.timeout(5):
                async for answer in health.Watch(health_pb2.HealthCheckRequest(service=service)):
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        break

    async def test_health_knows_no_other_service(self, server: LocalServer) -> None:
        async with grpc.aio.insecure_channel(server.target) as outside:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await health_stub(outside).Check(health_pb2.HealthCheckRequest(service="x"))
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND


class TestDrain:
    async def test_running_calls_finish_and_watches_end(
        self, tmp_path: Path, bundles: BundleServicer, violations: ViolationServicer
    ) -> None:
        async with AsyncExitStack() as client:
            async with serving(tmp_path, bundles, violations, drain_seconds=_DRAIN_SECONDS) as server:
                raw = await client.enter_async_context(grpc.aio.insecure_channel(server.target))
                metadata = call_metadata(server.keys.principal())
                slow = rpc.BundleServiceStub(raw).GetBundle(pb.GetBundleRequest(bundle="slow"), metadata=metadata)
                watch = rpc.ViolationServiceStub(raw).WatchViolations(pb.WatchViolationsRequest())
                health = health_stub(raw).Watch(health_pb2.HealthCheckRequest())
                assert await watch.read() is not None
                assert (await health.read()).status == health_pb2.HealthCheckResponse.SERVING
                started = time.monotonic()
            assert time.monotonic() - started < _DRAIN_SECONDS
            assert (await slow).bundle.name
            assert (await health.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert (bundles.finished, violations.ended) == (1, ["drained"])

    async def test_calls_are_taken_until_callers_have_noticed(self, server: LocalServer) -> None:
        clock = LeavingClock()
        leaving = Server(
            name="policy",
            listen="127.0.0.1:0",
            registrations=[],
            admission=server.keys.admission(GUARDS),
            notice_seconds=NOTICE_SECONDS,
            clock=clock,
        )
        async with AsyncExitStack() as stack:
            running = await stack.enter_async_context(serve(leaving))
            stopping = asyncio.create_task(stack.pop_all().aclose())
            await clock.noticing.wait()
            async with grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as opened:
                said = await health_stub(opened).Check(health_pb2.HealthCheckRequest())
            assert (said.status, running.drain.leaving) == (health_pb2.HealthCheckResponse.NOT_SERVING, True)
            assert not running.drain.begun
            clock.noticed.set()
            await stopping
            assert running.drain.begun

    async def test_nobody_is_waited_for_when_everybody_stops(self, server: LocalServer) -> None:
        admission = server.keys.admission(GUARDS)
        stopped = Server(
            name="policy", listen="127.0.0.1:0", registrations=[], admission=admission, notice_seconds=NOTICE_SECONDS
        )
        async with asyncio.timeout(NOTICE_SECONDS / 2), serve(stopped) as running:
            running.drain.at_once.set()

    async def test_nobody_is_waited_for_any_more_once_everybody_stops(self, server: LocalServer) -> None:
        clock = LeavingClock()
        leaving = Server(
            name="policy",
            listen="127.0.0.1:0",
            registrations=[],
            admission=server.keys.admission(GUARDS),
            notice_seconds=NOTICE_SECONDS,
            clock=clock,
        )
        async with AsyncExitStack() as stack:
            running = await stack.enter_async_context(serve(leaving))
            stopping = asyncio.create_task(stack.pop_all().aclose())
            await clock.noticing.wait()
            running.drain.at_once.set()
            async with asyncio.timeout(NOTICE_SECONDS / 2):
                await stopping

    async def test_background_work_that_fails_while_callers_notice_skips_nothing_of_the_drain(
        self, server: LocalServer
    ) -> None:
        clock, closed = LeavingClock(), list[str]()

        async def sweep() -> None:
            await clock.noticing.wait()
            raise NotFound("table", "outbox")

        @asynccontextmanager
        async def door(_: Drain) -> AsyncIterator[None]:
            yield
            closed.append("door")

        leaving = Server(
            name="policy",
            listen="127.0.0.1:0",
            registrations=[],
            admission=server.keys.admission(GUARDS),
            background=[sweep],
            beside=[door],
            notice_seconds=NOTICE_SECONDS,
            clock=clock,
        )
        stack = AsyncExitStack()
        running = await stack.enter_async_context(serve(leaving))
        with pytest.RaisesGroup(NotFound):
            await stack.aclose()
        assert (running.drain.begun, closed) == (True, ["door"])
        address = f"127.0.0.1:{running.port}"
        again = Server(name="policy", listen=address, registrations=[], admission=server.keys.admission(GUARDS))
        async with serve(again):
            pass

    async def test_background_work_is_cancelled_after_the_drain(self, tmp_path: Path) -> None:
        events: list[str] = []

        async def sweep() -> None:
            events.append("begun")
            try:
                await asyncio.Event().wait()
            finally:
                events.append("ended")

        async with local_server(guards={}, folder=tmp_path, background=(sweep,)):
            await asyncio.sleep(0)
        assert events == ["begun", "ended"]

    async def test_background_work_that_fails_ends_the_server(self, tmp_path: Path) -> None:
        async def sweep() -> None:
            raise NotFound("table", "outbox")

        with pytest.RaisesGroup(NotFound):
            async with local_server(guards={}, folder=tmp_path, background=(sweep,)):
                await asyncio.Event().wait()

    async def test_a_taken_address_is_said_in_a_sentence(self, server: LocalServer) -> None:
        second = Server(name="policy", listen=server.target, registrations=[], admission=server.keys.admission(GUARDS))
        with pytest.raises(AddressTaken, match=server.target):
            async with serve(second):
                pass

    async def test_a_server_that_is_not_ready_does_not_say_serving(self, tmp_path: Path, server: LocalServer) -> None:
        async def no_bundle() -> str | None:
            return "no policy bundle is loaded"

        unready = Server(
            name="policy",
            listen="127.0.0.1:0",
            registrations=[],
            admission=server.keys.admission(GUARDS),
            ready=no_bundle,
        )
        async with serve(unready) as running, grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as outside:
            answer = await health_stub(outside).Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
