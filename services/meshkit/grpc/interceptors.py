"""What happens around every RPC, from the outside in.

Errors, telemetry, deadline, audit, identity, limits, authorization, decoding: who calls is known before the call is
counted, and it is counted before anything that may refuse it is looked at, so that refusals are limited too.

Each layer is a decorator over the one shape that all four kinds of RPC are brought into: a coroutine that takes the
raw request (or an iterator of raw requests) and returns the answer, or writes its answers and returns None. The layers
of an RPC are put together once, at its first call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import grpc
import grpc.aio
from google.rpc import status_pb2
from opentelemetry.trace import SpanKind

from services.meshkit.core.errors import DeadlineExceeded, ErrorKind, Internal, MeshError
from services.meshkit.grpc.auditing import RefusalLog, auditing, name_caller, name_request
from services.meshkit.grpc.call import Call, Drain, current_call, enter_call
from services.meshkit.grpc.decoding import decoder
from services.meshkit.grpc.errors import DETAILS_TRAILER, STATUS_OF, code_of, remote_error, to_status
from services.meshkit.grpc.guard import (
    DEFAULT_MAX_SECONDS,
    Admission,
    Admitted,
    GuardMissing,
    check_certificate,
    is_exempt,
)
from services.meshkit.grpc.incidents import incident
from services.meshkit.grpc.limits import limited, tell_failed, tell_headers
from services.meshkit.grpc.standing import WhileStanding
from services.meshkit.grpc.tls import certified_names
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger
from services.meshkit.telemetry.scope import Scope, current_scope, enter_scope
from services.meshkit.telemetry.tracing import received_traceparent, span

# The request and the context are whatever gRPC hands over for the kind of the RPC.
if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]
    RpcHandler = grpc.RpcMethodHandler[Any, Any]
    Handler = Callable[[Any, Context], Awaitable[Any]]

#: Failures that are not the caller's doing.
_NO_REFUSALS: Final = (ErrorKind.UNAVAILABLE, ErrorKind.DEADLINE, ErrorKind.CANCELLED, ErrorKind.INTERNAL)
#: Reasons stand in our code; those that a neighbour sends are as many.
_refusal: Final = metrics.BoundedLabel(most=200)

log = logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rpc:
    """An RPC of this server, as its layers see it."""

    service: str
    method: str
    handler: RpcHandler
    admission: Admission
    drain: Drain
    refusals: RefusalLog | None
    #: Callers have shown a certificate.
    certified: bool

    @property
    def domain(self) -> str:
        """Domain of the errors of this service."""
        return f"{self.service}.comitia"


class MeshInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every RPC but health and reflection in the layers of the mesh."""

    def __init__(
        self,
        *,
        service: str,
        admission: Admission,
        drain: Drain,
        refusals: RefusalLog | None = None,
        certified: bool = False,
    ) -> None:
        self._refusals = refusals
        self._certified = certified
        self._service = service
        self._admission = admission
        self._drain = drain
        self._wrapped: dict[str, RpcHandler] = {}

    async def intercept_service(  # pyright: ignore[reportIncompatibleMethodOverride]  # the base is generic per call
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[RpcHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> RpcHandler | None:
        """See `grpc.aio.ServerInterceptor`. The wrapped handlers are as many as the RPCs that exist."""
        method = handler_call_details.method
        known = self._wrapped.get(method)
        if known is not None:
            return known
        handler = cast("RpcHandler | None", await continuation(handler_call_details))
        if handler is None or is_exempt(method):
            return handler
        rpc = Rpc(
            service=self._service,
            method=method,
            handler=handler,
            admission=self._admission,
            drain=self._drain,
            refusals=self._refusals,
            certified=self._certified,
        )
        wrapped = _wrap(rpc)
        self._wrapped[method] = wrapped
        return wrapped


def _wrap(rpc: Rpc) -> RpcHandler:
    handle = _decoding(rpc)
    for layer in (_authorization, limited, _identity, auditing, _deadline, _telemetry, _errors):
        handle = layer(rpc, handle)
    make: Any = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[rpc.handler.request_streaming, rpc.handler.response_streaming]
    return make(handle, request_deserializer=None, response_serializer=rpc.handler.response_serializer)


def _errors(rpc: Rpc, inner: Handler) -> Handler:
    """Puts every failure on the wire as a status with its reason. The one place where nothing escapes."""

    async def handle(request: Any, context: Context) -> Any:
        try:
            return await inner(request, context)
        except grpc.aio.AbortError:
            raise
        except MeshError as error:
            failure = error
            if isinstance(error, Internal):
                log.error("our own rules were broken", method=rpc.method, error=repr(error), exc_info=error)
        except grpc.aio.AioRpcError as error:
            failure = remote_error(error)
        except Exception as error:  # noqa: BLE001  # the outermost interceptor: nothing escapes
            failure = incident(error, method=rpc.method)
        if failure.kind not in _NO_REFUSALS:
            metrics.REFUSALS.labels(rpc.service, STATUS_OF[failure.kind].name, _refusal(failure.reason)).inc()
        await tell_failed(context, streaming=bool(rpc.handler.response_streaming))
        return await _abort(context, to_status(failure, domain=rpc.domain))

    return handle


async def _abort(context: Context, status: status_pb2.Status) -> NoReturn:
    beside: Any = context.trailing_metadata() or ()
    trailer = (*beside, (DETAILS_TRAILER, status.SerializeToString()))
    await context.abort(code_of(status), status.message, trailing_metadata=trailer)


def _telemetry(rpc: Rpc, inner: Handler) -> Handler:
    """Measures the call, opens its span and writes a line when it is done."""
    in_flight = metrics.RPC_IN_FLIGHT.labels(rpc.service)
    succeeded = metrics.RPC_DURATION.labels(rpc.method, "OK")
    attributes = {"rpc.system": "grpc", "rpc.method": rpc.method}

    async def handle(request: Any, context: Context) -> Any:
        started = time.perf_counter()
        in_flight.inc()
        enter_scope(Scope(service=rpc.service, correlation_id=_metadata(context, "x-request-id")))
        traceparent = _traceparent(rpc, context)
        # The lines of the end are written within the span: they belong to its trace as all others do.
        with span(rpc.method, traceparent=traceparent, kind=SpanKind.SERVER, attributes=lambda: attributes):
            try:
                answer = await inner(request, context)
            except BaseException as error:
                seconds = time.perf_counter() - started
                code = _code_name(error)
                metrics.RPC_DURATION.labels(rpc.method, code).observe(seconds)
                log.info("call failed", method=rpc.method, code=code, seconds=round(seconds, 6), error=_reason(error))
                raise
            else:
                seconds = time.perf_counter() - started
                succeeded.observe(seconds)
                log.debug("call done", method=rpc.method, code="OK", seconds=round(seconds, 6))
                return answer
            finally:
                in_flight.dec()

    return handle


def _deadline(rpc: Rpc, inner: Handler) -> Handler:
    """Ends the call when its client stops waiting or when its guard says so, whichever comes first."""
    try:
        longest = float(rpc.admission.guard(rpc.method).max_seconds or DEFAULT_MAX_SECONDS)
    except GuardMissing:
        # Refused by the next layer, at every call.
        longest = float(DEFAULT_MAX_SECONDS)

    async def handle(request: Any, context: Context) -> Any:
        asked = cast(float | None, context.time_remaining())
        seconds = longest if asked is None else min(asked, longest)
        expires = asyncio.get_running_loop().time() + seconds
        enter_call(
            Call(service=rpc.service, method=rpc.method, expires=expires, drain=rpc.drain, admission=rpc.admission)
        )
        timer = asyncio.timeout_at(expires)
        try:
            async with timer:
                return await inner(request, context)
        except TimeoutError as error:
            if not timer.expired():
                raise
            raise DeadlineExceeded(
                f"the answer was not ready within {seconds:.3f} s", seconds=f"{seconds:.3f}"
            ) from error

    return handle


def _identity(rpc: Rpc, inner: Handler) -> Handler:
    """Finds out who calls, and tells the servicer."""
    batch = bool(rpc.handler.request_streaming and rpc.handler.response_streaming)

    async def handle(request: Any, context: Context) -> Any:
        metadata: Any = context.invocation_metadata() or ()
        admitted = rpc.admission.identify(rpc.method, metadata, batch=batch)
        call = current_call()
        if call is not None:
            call.principal, call.peer, call.verified = admitted.principal, admitted.peer, admitted.verified
            call.connection = context
        if admitted.principal is not None and admitted.principal.run_id is not None:
            enter_scope(current_scope().on_behalf_of(admitted.principal.run_id))
        name_caller(admitted, context, addresses=rpc.admission.addresses)
        if rpc.certified and admitted.peer is not None:
            check_certificate(admitted.peer, certified_names(context))
        return await inner(request, context)

    return handle


def _authorization(rpc: Rpc, inner: Handler) -> Handler:
    """Lets in who may come in. A stream ends when its caller is let in no more."""
    long = bool(rpc.handler.response_streaming)

    async def handle(request: Any, context: Context) -> Any:
        call = current_call()
        admitted = Admitted()
        if call is not None:
            admitted = Admitted(principal=call.principal, peer=call.peer, verified=call.verified)
        rpc.admission.authorize(rpc.method, admitted)
        rpc.admission.check_origin(admitted, context)
        if long and admitted.verified is not None and rpc.admission.standing is not None:
            async with WhileStanding(rpc.admission.standing, admitted.verified):
                return await inner(request, context)
        return await inner(request, context)

    return handle


def _decoding(rpc: Rpc) -> Handler:
    """Reads the request inside the layers, so that bytes we cannot read are the caller's error with a reason."""
    handler: Any = rpc.handler
    decode: Callable[[bytes], Any] = decoder(handler.request_deserializer)
    if handler.response_streaming:
        behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream

        async def stream(raw: Any, context: Context) -> None:
            request = _decoded(raw, decode) if handler.request_streaming else decode(raw)
            call = current_call()
            async with aclosing(behaviour(request, context)) as answers:
                async for answer in answers:
                    await _write(answer, call, context)

        return stream
    behaviour = handler.stream_unary if handler.request_streaming else handler.unary_unary

    async def unary(raw: Any, context: Context) -> Any:
        if handler.request_streaming:
            return await behaviour(_decoded(raw, decode), context)
        request = decode(raw)
        name_request(request)
        return await behaviour(request, context)

    return unary


async def _write(answer: Any, call: Call | None, context: Context) -> None:
    try:
        if call is not None and call.headers is not None:
            await tell_headers(call, context)
        await context.write(answer)
    except grpc.aio.InternalError as cause:
        # What gRPC says when the connection broke under the answer, until it says that the call is cancelled.
        raise asyncio.CancelledError from cause


async def _decoded(raw: AsyncIterator[bytes], decode: Callable[[bytes], Any]) -> AsyncGenerator[Any]:
    async for item in raw:
        yield decode(item)


def _traceparent(rpc: Rpc, context: Context) -> str:
    said = _metadata(context, "traceparent")
    if not said:
        return ""
    metadata: Any = context.invocation_metadata() or ()
    return received_traceparent(said, neighbour=rpc.admission.is_neighbour(metadata))


def _metadata(context: Context, key: str) -> str:
    metadata: Any = context.invocation_metadata() or ()
    for name, value in metadata:
        if name == key and isinstance(value, str):
            return value
    return ""


def _code_name(error: BaseException) -> str:
    match error:
        case MeshError():
            return STATUS_OF[error.kind].name
        case grpc.aio.AioRpcError():
            return error.code().name
        case asyncio.CancelledError():
            return grpc.StatusCode.CANCELLED.name
        case _:
            return grpc.StatusCode.INTERNAL.name


def _reason(error: BaseException) -> str:
    return error.reason if isinstance(error, MeshError) else type(error).__name__
