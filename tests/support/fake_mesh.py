"""A mesh without servers behind it, for tests of the client and the command line.

It speaks the contracts over real gRPC on a free port and behaves: agents never change, sessions play turns, lists come
in pages, tokens stop working, refusals carry their details, a watched stream breaks when told to.

    with fake_mesh() as mesh:
        mesh.fail_next("GetAgent", Refused(ErrorKind.UNAVAILABLE, "COST_DOWN", "cost does not answer"))
"""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from grpc_status import rpc_status

from comitia.cost.v1 import budget_service_pb2, forecast_service_pb2, ledger_service_pb2, pricing_service_pb2
from comitia.gateway.v1 import (
    access_service_pb2,
    audit_service_pb2,
    identity_service_pb2,
    status_service_pb2,
    tenant_service_pb2,
    user_service_pb2,
)
from comitia.inference.v1 import inference_service_pb2, model_batch_service_pb2, model_service_pb2
from comitia.memory.v1 import memory_service_pb2
from comitia.orchestrator.v1 import agent_service_pb2, estimate_service_pb2, session_service_pb2
from comitia.policy.v1 import policy_service_pb2
from comitia.tools.v1 import tool_service_pb2
from services.meshkit.core.errors import ErrorKind, MeshError
from services.meshkit.grpc.errors import to_status
from tests.support.fake_mesh_access import Access
from tests.support.fake_mesh_audit import Audit
from tests.support.fake_mesh_batches import Batches
from tests.support.fake_mesh_estimates import Estimates
from tests.support.fake_mesh_forecasts import Forecasts
from tests.support.fake_mesh_people import People
from tests.support.fake_mesh_rooms import Identity, Law, Memory, Models, Money, Refused, Status, Tools
from tests.support.fake_mesh_sessions import Agents, Sessions
from tests.support.fake_mesh_tenants import Tenants

__all__ = ["ADMIN_KEY", "Broken", "FakeMesh", "Refused", "fake_mesh"]

ADMIN_KEY: Final = "ck_admin_secret"
_CONTRACTS: Final = (
    access_service_pb2,
    agent_service_pb2,
    audit_service_pb2,
    budget_service_pb2,
    estimate_service_pb2,
    forecast_service_pb2,
    identity_service_pb2,
    inference_service_pb2,
    ledger_service_pb2,
    memory_service_pb2,
    model_batch_service_pb2,
    model_service_pb2,
    policy_service_pb2,
    pricing_service_pb2,
    session_service_pb2,
    status_service_pb2,
    tenant_service_pb2,
    tool_service_pb2,
    user_service_pb2,
)
#: RPCs that ask for no identity.
_OPEN: Final = frozenset({"ExchangeApiKey", "ExchangeOidcToken", "GetKeySet", "GetLoginOptions", "GetMeshStatus"})


@dataclass(frozen=True, slots=True)
class Broken:
    """A failure of the way there: a status without any details."""

    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    message: str = "Socket closed"


@dataclass(slots=True)
class FakeMesh:
    """What the mesh holds, and what it does to callers."""

    url: str = ""
    #: Roles by API key.
    keys: dict[str, list[str]] = field(default_factory=lambda: {ADMIN_KEY: ["ROLE_ADMIN", "ROLE_OPERATOR"]})
    #: When each access token stops working, by this machine's clock.
    tokens: dict[str, float] = field(default_factory=dict[str, float])
    token_seconds: float = 900.0
    #: Finished and started calls by name.
    calls: Counter[str] = field(default_factory=Counter[str])
    faults: defaultdict[str, deque[Refused | Broken]] = field(default_factory=lambda: defaultdict(deque))
    #: `request_id` of each call that had one, by the name of the RPC.
    request_ids: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    #: Metadata of the last call.
    last_metadata: dict[str, str] = field(default_factory=dict[str, str])
    agents: Agents = field(default_factory=Agents)
    sessions: Sessions = field(init=False)
    identity: Identity = field(init=False)
    people: People = field(init=False)
    tenants: Tenants = field(default_factory=Tenants)
    access: Access = field(default_factory=Access)
    law: Law = field(default_factory=Law)
    money: Money = field(default_factory=Money)
    estimates: Estimates = field(default_factory=Estimates)
    forecasts: Forecasts = field(default_factory=Forecasts)
    models: Models = field(default_factory=Models)
    batches: Batches = field(default_factory=Batches)
    memory: Memory = field(default_factory=Memory)
    tools: Tools = field(default_factory=Tools)
    status: Status = field(default_factory=Status)
    audit: Audit = field(default_factory=Audit)

    def __post_init__(self) -> None:
        self.sessions = Sessions(self.agents)
        self.identity = Identity(self.keys, self.give_token)
        self.people = People(self.give_token)

    def fail_next(self, rpc: str, failure: Refused | Broken) -> None:
        """Makes the next call of an RPC fail."""
        self.faults[rpc].append(failure)

    def forget_tokens(self) -> None:
        """Makes every token that was given stop working, as after a restart with new keys."""
        self.tokens.clear()

    def give_token(self) -> tuple[str, float]:
        """Makes an access token. Returns it and when it stops working."""
        number = self.calls["ExchangeApiKey"] + self.calls["ExchangeOidcToken"]
        token, end = f"token-{number}", time.time() + self.token_seconds
        self.tokens[token] = end
        return token, end

    def find(self, rpc: str) -> Callable[[Any, Any], Any] | None:
        """Finds what answers an RPC."""
        rooms = (
            *(self.agents, self.sessions, self.identity, self.people, self.tenants, self.law, self.money),
            self.estimates,
            self.batches,
            *(self.models, self.memory, self.tools, self.status, self.access, self.audit, self.forecasts),
        )
        return next((getattr(room, rpc) for room in rooms if hasattr(room, rpc)), None)

    def admit(self, rpc: str, context: grpc.ServicerContext) -> None:
        """Counts a call, fails it when that was asked for, and checks who calls."""
        self.calls[rpc] += 1
        self.last_metadata = {str(key): str(value) for key, value in context.invocation_metadata()}
        if self.faults[rpc]:
            failure = self.faults[rpc].popleft()
            if isinstance(failure, Broken):
                context.abort(failure.code, failure.message)
            raise failure
        if rpc in _OPEN:
            return
        token = self.last_metadata.get("authorization", "").removeprefix("Bearer ")
        if self.tokens.get(token, 0.0) < time.time():
            raise Refused(ErrorKind.UNAUTHENTICATED, "TOKEN_INVALID", "the access token does not work")


class _Door(grpc.GenericRpcHandler):
    """Takes every call of the contracts to what answers it."""

    def __init__(self, mesh: FakeMesh) -> None:
        self._mesh = mesh
        self._methods: dict[str, MethodDescriptor] = {
            f"/{service.full_name}/{method.name}": method
            for contract in _CONTRACTS
            for service in contract.DESCRIPTOR.services_by_name.values()
            for method in service.methods
        }

    def service(self, handler_call_details: Any) -> Any:
        method = self._methods.get(handler_call_details.method)
        answer = self._mesh.find(method.name) if method is not None else None
        if method is None or answer is None:
            return None
        read = message_factory.GetMessageClass(method.input_type).FromString
        write = message_factory.GetMessageClass(method.output_type).SerializeToString
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(self._stream(method.name, answer), read, write)
        return grpc.unary_unary_rpc_method_handler(self._unary(method.name, answer), read, write)

    def _unary(self, rpc: str, answer: Callable[[Any, Any], Any]) -> Any:
        def call(request: Any, context: grpc.ServicerContext) -> Any:
            with _refusing(context):
                if named := getattr(request, "request_id", ""):
                    self._mesh.request_ids[rpc].append(named)
                self._mesh.admit(rpc, context)
                return answer(request, context)

        return call

    def _stream(self, rpc: str, answer: Callable[[Any, Any], Any]) -> Any:
        def call(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with _refusing(context):
                self._mesh.admit(rpc, context)
                yield from answer(request, context)

        return call


@contextmanager
def _refusing(context: grpc.ServicerContext) -> Iterator[None]:
    try:
        yield
    except MeshError as error:
        context.abort_with_status(rpc_status.to_status(to_status(error, domain="fake.comitia")))


@contextmanager
def fake_mesh() -> Iterator[FakeMesh]:
    """Serves a fake mesh while the block runs."""
    mesh = FakeMesh()
    with ThreadPoolExecutor(16) as pool:
        server = grpc.server(pool, handlers=[_Door(mesh)])
        mesh.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield mesh
        finally:
            mesh.sessions.closing.set()
            server.stop(0).wait()
