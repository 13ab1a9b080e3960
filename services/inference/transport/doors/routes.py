"""Receives requests at the doors, lets in who may come in, and tells failures in the dialect of the door.

The same as happens around an RPC (`meshkit.grpc.interceptors`), in the same order, with the permission, limits and
longest time of the RPC that the door stands for: who knocks is known before the request is counted, and it is counted
before anything that may refuse it is looked at.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import msgspec
from aiohttp import web
from opentelemetry.trace import SpanKind

from services.inference.transport.doors.bodies import MAX_REQUEST_BYTES
from services.inference.transport.doors.body_room import BodyRoom
from services.inference.transport.doors.door import Door, Visit
from services.inference.transport.doors.errors import Dialect, error_body, error_headers, told
from services.inference.transport.doors.headers import rate_headers, request_headers
from services.inference.transport.doors.keys import DoorKeys, credential_of
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Cancelled, DeadlineExceeded, Internal, Invalid, MeshError, NotFound
from services.meshkit.core.ids import IdSource
from services.meshkit.grpc.call import Call, Drain, enter_call
from services.meshkit.grpc.client_address import FORWARDED_FOR
from services.meshkit.grpc.decoding import RequestTooLarge
from services.meshkit.grpc.errors import STATUS_OF
from services.meshkit.grpc.guard import DEFAULT_MAX_SECONDS, Admission, Admitted
from services.meshkit.grpc.incidents import incident
from services.meshkit.grpc.limits import RateLimited, RouteLimits
from services.meshkit.grpc.standing import WhileStanding
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger
from services.meshkit.telemetry.scope import Scope, enter_scope
from services.meshkit.telemetry.tracing import received_traceparent, span

log = logger(__name__)

_SERVICE: Final = "inference"
_HEALTH: Final = "/health"
_REQUEST: Final = "req"
#: Time kept back from the longest that a request may take, so that the failure of a slow model still gets through.
_MARGIN_SECONDS: Final = 0.25
_JSON: Final = "application/json"
#: What Anthropic's clients ask for.
_ANTHROPIC: Final = "/v1/messages"
_IN_FLIGHT: Final = metrics.RPC_IN_FLIGHT.labels(_SERVICE)
_refused: Final = metrics.BoundedLabel(most=200)


class NoSuchDoor(NotFound):
    """Nothing answers to this method and path."""

    reason = "NO_SUCH_METHOD"

    def __init__(self, method: str, path: str) -> None:
        super().__init__("door", f"{method} {path}")


@dataclass(frozen=True, slots=True)
class _Connection:
    """Tells where a request comes from, as gRPC tells it of a call."""

    request: web.BaseRequest

    def peer(self) -> str:
        # The port says nothing to anybody.
        return f"ipv4:{self.request.remote}:0"

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return [(FORWARDED_FOR, said) for said in self.request.headers.getall(FORWARDED_FOR, ())]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Route:
    door: Door
    limits: RouteLimits | None
    seconds: float


class Doors:
    """All doors of this service; a handler of `aiohttp.web.Server`.

    Args:
        doors: by method and path; a path that ends with `/` stands for all that begin so.
    """

    def __init__(
        self,
        doors: Mapping[tuple[str, str], Door],
        *,
        admission: Admission,
        keys: DoorKeys,
        room: BodyRoom,
        drain: Drain,
        clock: Clock,
        ids: IdSource,
    ) -> None:
        self._admission = admission
        self._keys = keys
        self._room = room
        self._drain = drain
        self._clock = clock
        self._ids = ids
        self._routes = {place: self._route(door) for place, door in doors.items()}

    def _route(self, door: Door) -> _Route:
        guard, limits = self._admission.guard(door.rpc), self._admission.limits
        return _Route(
            door=door,
            limits=None if limits is None else limits.route(door.rpc, guard),
            seconds=float(guard.max_seconds or DEFAULT_MAX_SECONDS),
        )

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers one request."""
        path = request.rel_url.path
        if path == _HEALTH:
            return web.Response(status=503 if self._drain.leaving else 200)
        request_id = request.headers.get("x-request-id") or self._ids.new(_REQUEST)
        enter_scope(Scope(service=_SERVICE, correlation_id=request_id))
        place, route = self._found(request.method, path)
        if route is None:
            dialect = Dialect.ANTHROPIC if path.startswith(_ANTHROPIC) else Dialect.OPENAI
            return _refusal(NoSuchDoor(request.method, path), dialect, request_id, {})
        visit = Visit(
            request=request,
            id=request_id,
            rest=path.removeprefix(place),
            deadline=self._clock.monotonic() + route.seconds - _MARGIN_SECONDS,
            headers=request_headers(route.door.dialect, request_id),
        )
        name = f"{request.method} {place}"
        started, code = time.perf_counter(), "CANCELLED"
        _IN_FLIGHT.inc()
        try:
            response, code = await self._answered(name, route, visit)
            return response
        finally:
            _IN_FLIGHT.dec()
            metrics.RPC_DURATION.labels(name, code).observe(time.perf_counter() - started)

    async def _answered(self, name: str, route: _Route, visit: Visit) -> tuple[web.StreamResponse, str]:
        """Gives the answer, or the failure in its place, and the code that it counts as."""
        try:
            said = visit.request.headers.get("traceparent")
            with span(name, traceparent=received_traceparent(said, neighbour=False), kind=SpanKind.SERVER):
                return await self._made(name, route, visit), "OK"
        except MeshError as error:
            failure = error
        code = STATUS_OF[failure.kind].name
        if told(failure).status < 500:
            metrics.REFUSALS.labels(_SERVICE, code, _refused(failure.reason)).inc()
        dialect = route.door.dialect
        if visit.begun is None:
            return _refusal(failure, dialect, visit.id, visit.headers), code
        with suppress(ConnectionError):
            await visit.begun.write(visit.said.broken(error_body(failure, dialect, request_id=visit.id)))
        # Without an orderly end, no client takes what it has for a whole answer.
        visit.begun.force_close()
        if visit.request.transport is not None:
            visit.request.transport.close()
        return visit.begun, code

    async def _made(self, name: str, route: _Route, visit: Visit) -> web.StreamResponse:
        """Gives the answer. Raises: MeshError: the failure, whatever it was; its lines lie within the span."""
        try:
            async with self._ending(route), self._admitted(route, visit):
                with self._room.taken(visit.principal.tenant, _length_of(visit.request)):
                    return await route.door(visit)
        except MeshError as error:
            failure = error
            if isinstance(error, Internal):
                log.error("our own rules were broken", method=name, error=repr(error), exc_info=error)
        except web.HTTPRequestEntityTooLarge:
            failure = _too_large()
        except ConnectionError:
            # Whoever asked has gone; aiohttp notices, too.
            failure = Cancelled("the caller went away before the answer")
        except Exception as error:  # noqa: BLE001  # the outermost layer: nothing escapes
            failure = incident(error, method=name)
        log.info("request failed", method=name, code=STATUS_OF[failure.kind].name, error=failure.reason)
        raise failure

    def _found(self, method: str, path: str) -> tuple[str, _Route | None]:
        route = self._routes.get((method, path))
        if route is not None:
            return path, route
        for (known, place), candidate in self._routes.items():
            if known == method and place.endswith("/") and path.startswith(place):
                return place, candidate
        return path, None

    @asynccontextmanager
    async def _ending(self, route: _Route) -> AsyncGenerator[None]:
        """Ends the block when its time is up."""
        timer = asyncio.timeout(route.seconds)
        try:
            async with timer:
                yield
        except TimeoutError as error:
            if not timer.expired():
                raise
            raise DeadlineExceeded(f"the answer was not ready within {route.seconds:g} s") from error

    @asynccontextmanager
    async def _admitted(self, route: _Route, visit: Visit) -> AsyncGenerator[None]:
        """Lets in who may come in, for as long as they may."""
        request, connection = visit.request, _Connection(visit.request)
        address = self._admission.addresses.of(connection)
        verified = await self._keys(credential_of(request.headers), address=address)
        principal = visit.principal = verified.principal
        enter_call(
            Call(
                service=_SERVICE,
                method=route.door.rpc,
                expires=asyncio.get_running_loop().time() + route.seconds,
                drain=self._drain,
                admission=self._admission,
                principal=principal,
                verified=verified,
                connection=connection,
            )
        )
        admitted = Admitted(principal=principal, verified=verified)
        leave = _nothing if route.limits is None else route.limits.enter(principal, outside=True)
        try:
            if route.limits is not None:
                await self._count(route.limits, route.door.dialect, visit, connection)
            self._admission.authorize(route.door.rpc, admitted)
            self._admission.check_origin(admitted, connection)
            if request.headers.get("content-encoding", "identity") != "identity":
                raise Invalid("content-encoding", "must be identity; send the body as it is")
            if self._admission.standing is None:
                yield
                return
            async with WhileStanding(self._admission.standing, verified):
                yield
        finally:
            leave()

    async def _count(self, limits: RouteLimits, dialect: Dialect, visit: Visit, connection: _Connection) -> None:
        now = self._clock.now()
        try:
            allowance = await limits.count(visit.principal, connection)
        except RateLimited as refused:
            visit.headers.update(rate_headers(dialect, refused.allowance, now=now))
            raise
        if allowance is not None:
            visit.headers.update(rate_headers(dialect, allowance, now=now))


def _length_of(request: web.BaseRequest) -> int:
    """Gives how long the body of a request is, bytes; the most that it may be when the request does not say.

    Raises: RequestTooLarge.
    """
    if request.content_length is not None:
        if request.content_length > MAX_REQUEST_BYTES:
            raise _too_large()
        return request.content_length
    return MAX_REQUEST_BYTES if request.can_read_body else 0


def _too_large() -> RequestTooLarge:
    return RequestTooLarge(f"the body is longer than {MAX_REQUEST_BYTES} bytes", limit_bytes=MAX_REQUEST_BYTES)


def _refusal(failure: MeshError, dialect: Dialect, request_id: str, headers: Mapping[str, str]) -> web.Response:
    return web.Response(
        status=told(failure).status_in(dialect),
        body=msgspec.json.encode(error_body(failure, dialect, request_id=request_id)),
        content_type=_JSON,
        headers={**headers, **error_headers(failure)},
    )


def _nothing() -> None:
    """No seat was taken."""
