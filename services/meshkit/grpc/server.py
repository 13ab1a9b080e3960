"""One gRPC server of the mesh: its services, its background work, its start and its drain.

Several servers may live on one loop (single process).
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, cast

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2_grpc

from services.meshkit.core.clock import Clock, SystemClock
from services.meshkit.core.errors import Internal
from services.meshkit.grpc.auditing import RefusalLog
from services.meshkit.grpc.call import Drain
from services.meshkit.grpc.decoding import MAX_MESSAGE_BYTES, RECEIVED_BYTES
from services.meshkit.grpc.guard import EXEMPT_SERVICES, Admission, GuardMissing
from services.meshkit.grpc.health import HealthServicer
from services.meshkit.grpc.interceptors import MeshInterceptor
from services.meshkit.grpc.reflection import add_reflection
from services.meshkit.grpc.tls import MeshTls
from services.meshkit.telemetry.logs import logger
from services.meshkit.telemetry.loop_lag import loop_lag_measured
from services.meshkit.telemetry.metrics_page import metrics_page
from services.meshkit.telemetry.scope import scoped

_MAX_STREAMS_PER_CONNECTION: Final = 1000
#: Above what the edge lets through (32 KiB), so that what is wrong in a header is told by us, with a reason.
_MAX_METADATA_BYTES: Final = 64 * 1024
#: A connection is closed for new calls after this long, so that clients find new replicas.
_MAX_CONNECTION_AGE_MS: Final = 10 * 60 * 1000
#: Calls that live on an aged connection may take this long to end.
_MAX_CONNECTION_AGE_GRACE_MS: Final = 60 * 60 * 1000
#: Pause between two looks at the readiness of a server that is ready, and of one that is not yet, seconds.
_READY_SECONDS: Final = 1.0
_UNREADY_SECONDS: Final = 0.1

#: Adds a servicer to a server: `partial(add_ToolServiceServicer_to_server, servicer)`.
Registration = Callable[[Any], None]
#: Work that the server owns: runs from start to stop, is cancelled after the drain; a failure stops the server.
Background = Callable[[], Awaitable[None]]
#: Says in a sentence why the server cannot take work right now, None when it can.
Readiness = Callable[[], Awaitable[str | None]]
#: Serves something else beside gRPC while its block runs, such as HTTP; ends within the time that the drain has.
Beside = Callable[[Drain], AbstractAsyncContextManager[None]]

log = logger(__name__)


class AddressTaken(Internal):
    """The address to listen on is in use or not ours. Stop what uses it or choose another."""

    reason = "ADDRESS_TAKEN"


async def always_ready() -> str | None:
    """Readiness of a server without dependencies that it cannot start without."""
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What to serve, and how."""

    #: Name of the service, such as `tools`; errors carry the domain `tools.comitia`.
    name: str
    #: `host:port`; port 0 takes any free one.
    listen: str
    registrations: Sequence[Registration]
    admission: Admission
    #: Records audited calls that are refused; None for servers without audited calls.
    refusals: RefusalLog | None = None
    background: Sequence[Background] = ()
    #: Opened when gRPC is bound, closed beside it.
    beside: Sequence[Beside] = ()
    #: Asked once a second, and more often until it is ready; health follows it.
    ready: Readiness = always_ready
    metrics_listen: str | None = None
    #: Before the drain: how long callers have to notice that health says NOT_SERVING.
    notice_seconds: float = 0.0
    drain_seconds: float = 10.0
    max_concurrent_calls: int = 2000
    #: Certificate of the server, which then asks for its callers'; None speaks plain text, for the loopback.
    tls: MeshTls | None = None
    clock: Clock = field(default_factory=SystemClock)


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A server that runs."""

    port: int
    metrics_port: int | None
    #: Full names of its services.
    services: tuple[str, ...]
    health: HealthServicer
    drain: Drain


def all_ready(*checks: Readiness) -> Readiness:
    """Puts several answers to the same question together: the first reason that is given counts."""

    async def ready() -> str | None:
        for check in checks:
            reason = await check()
            if reason is not None:
                return reason
        return None

    return ready


@asynccontextmanager
async def serve(server: Server) -> AsyncGenerator[Serving]:
    """Serves while the block runs, then drains.

    Draining: health says NOT_SERVING while callers have `notice_seconds` to go elsewhere; no new call is taken, running
    ones have `drain_seconds`; then background work is cancelled. What the wiring opened closes after that: it hands its
    work over and writes what waits. Raises: AddressTaken; and what background work raised, as an ExceptionGroup.
    """
    drain = Drain()
    interceptor = MeshInterceptor(
        service=server.name,
        admission=server.admission,
        drain=drain,
        refusals=server.refusals,
        certified=server.tls is not None,
    )
    grpc_server = grpc.aio.server(
        interceptors=(interceptor,), options=_options(), maximum_concurrent_rpcs=server.max_concurrent_calls
    )
    services = _register(grpc_server, server)
    health = HealthServicer(services)
    _add_health(grpc_server, health)
    add_reflection(grpc_server, (*services, EXEMPT_SERVICES[0]))
    port = await _bind(grpc_server, server)
    own: BaseException | None = None
    try:
        async with (
            metrics_page(server.metrics_listen, ready=lambda: health.serving) as metrics_port,
            loop_lag_measured(server.name),
            asyncio.TaskGroup() as tasks,
        ):
            running = _start_background(server, health, tasks)
            beside = AsyncExitStack()
            try:
                for opened in server.beside:
                    await beside.enter_async_context(opened(drain))
                await grpc_server.start()
                log.info("server started", service=server.name, listen=server.listen, port=port, services=services)
                yield Serving(port=port, metrics_port=metrics_port, services=services, health=health, drain=drain)
            except BaseException as error:
                own = error
                raise
            finally:
                try:
                    await health.drain()
                    if own is None:
                        await _let_callers_notice(server, drain)
                finally:
                    # Background work that fails meanwhile ends the notice, and nothing of the drain.
                    drain.broken = own is not None
                    drain.begin()
                    stopping = asyncio.ensure_future(grpc_server.stop(server.drain_seconds))
                    await beside.aclose()
                    await stopping
                    for task in running:
                        task.cancel()
                    log.info("server stopped", service=server.name)
    except BaseExceptionGroup as group:
        # What the block itself raised is nobody's group.
        if own is not None and group.exceptions == (own,):
            raise own from own.__cause__
        raise


async def _let_callers_notice(server: Server, drain: Drain) -> None:
    drain.leaving = True
    if not server.notice_seconds or drain.at_once.is_set():
        return
    log.info("leaving", service=server.name, seconds=server.notice_seconds)
    waits = (
        asyncio.ensure_future(server.clock.sleep(server.notice_seconds)),
        asyncio.ensure_future(drain.at_once.wait()),
    )
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waits:
            one.cancel()


def _start_background(server: Server, health: HealthServicer, tasks: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
    with scoped(service=server.name):
        running = [tasks.create_task(_run(work), name=f"{server.name}-background") for work in server.background]
        running.append(tasks.create_task(_follow_readiness(server, health), name=f"{server.name}-readiness"))
    return running


async def _run(work: Background) -> None:
    await work()


async def _follow_readiness(server: Server, health: HealthServicer) -> None:
    told: str | None = None
    while True:
        reason = await server.ready()
        await health.set_serving(reason is None)
        if reason != told:
            told = reason
            log.warning("not ready", why=reason) if reason else log.info("ready")
        await server.clock.sleep(_READY_SECONDS if reason is None else _UNREADY_SECONDS)


async def _bind(grpc_server: grpc.aio.Server, server: Server) -> int:
    try:
        if server.tls is None:
            return grpc_server.add_insecure_port(server.listen)
        return grpc_server.add_secure_port(server.listen, server.tls.server_credentials())
    except RuntimeError as error:
        await grpc_server.stop(None)
        raise AddressTaken(
            f"{server.name} cannot listen on {server.listen}; stop what uses it or choose another address",
            listen=server.listen,
        ) from error


def _register(grpc_server: grpc.aio.Server, server: Server) -> tuple[str, ...]:
    """Adds the servicers and gives their full names. An RPC without a guard is logged here and refused when called."""
    recorder = _Recorder(grpc_server)
    for registration in server.registrations:
        registration(recorder)
    for method in recorder.methods:
        try:
            server.admission.guard(method)
        except GuardMissing as error:
            log.error("an RPC has no guard annotation and is refused", method=method, reason=error.reason)
    return tuple(dict.fromkeys(recorder.services))


class _Recorder:
    """Stands in for the server while generated code registers, and notes what it registers.

    It registers no method beside its service: gRPC would wait for the next call of each by a future of its own, and
    look at all of these at every call.
    """

    def __init__(self, grpc_server: grpc.aio.Server) -> None:
        self._grpc_server = grpc_server
        self.services: list[str] = []
        self.methods: list[str] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self.services.extend(
            handler.service_name() for handler in handlers if isinstance(handler, grpc.ServiceRpcHandler)
        )
        self._grpc_server.add_generic_rpc_handlers(tuple(handlers))

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        self.methods.extend(f"/{service}/{method}" for method in handlers)


def _add_health(grpc_server: grpc.aio.Server, health: HealthServicer) -> None:
    add = cast(Callable[[Any, Any], None], health_pb2_grpc.add_HealthServicer_to_server)  # pyright: ignore[reportUnknownMemberType]
    add(health, grpc_server)


def _options() -> list[tuple[str, Any]]:
    return [
        ("grpc.max_receive_message_length", RECEIVED_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_concurrent_streams", _MAX_STREAMS_PER_CONNECTION),
        ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.max_connection_age_ms", _MAX_CONNECTION_AGE_MS),
        ("grpc.max_connection_age_grace_ms", _MAX_CONNECTION_AGE_GRACE_MS),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        # Our channels also ping while no call runs; without this the server hangs up on every idle neighbour.
        ("grpc.keepalive_permit_without_calls", 1),
        # Two servers on one port would share its calls in silence; better one of them says so.
        ("grpc.so_reuseport", 0),
    ]
