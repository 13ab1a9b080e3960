"""How many calls may begin: the layer around an RPC that counts them, and what it tells the caller.

What counts is behind `Limits`, which the guard of the mesh implements; a server without it counts nothing.
"""

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from services.meshkit.core.errors import Exhausted
from services.meshkit.core.identity import Principal
from services.meshkit.grpc.call import Call, Headers, current_call
from services.meshkit.grpc.client_address import Connection
from services.meshkit.grpc.guard import Guard, GuardMissing

if TYPE_CHECKING:
    from services.meshkit.grpc.interceptors import Context, Handler, Rpc

#: Whose calls a limit counts.
Whose = Literal["tenant", "caller", "address"]

_LIMIT: Final = "x-ratelimit-limit"
_REMAINING: Final = "x-ratelimit-remaining"
_RESET: Final = "x-ratelimit-reset"
_RETRY_AFTER: Final = "retry-after"


@dataclass(frozen=True, slots=True)
class Allowance:
    """Where a caller stands with the tightest of the limits of an RPC."""

    #: Calls per second, rounded; at least 1.
    limit: int
    #: Calls that may begin right now; at most `limit`, though a rested bucket lets more through at once.
    remaining: int
    #: Whole seconds until `remaining` is `limit` again without further calls.
    reset_seconds: int

    @property
    def headers(self) -> Headers:
        """The same as metadata, which REST callers get as headers."""
        return ((_LIMIT, str(self.limit)), (_REMAINING, str(self.remaining)), (_RESET, str(self.reset_seconds)))


class RateLimited(Exhausted):
    """Too many calls of one RPC in a short time. Wait as long as `retry_after` says, or ask for a higher limit."""

    reason = "RATE_LIMITED"

    def __init__(
        self, *, whose: Whose, method: str, allowance: Allowance, seconds: float, sentence: str | None = None
    ) -> None:
        name = method.rpartition("/")[2]
        what = sentence or f"too many calls of {name} for one {whose}: {allowance.limit} a second are allowed"
        super().__init__(
            f"{what}; try again in {seconds:.3f} s",
            retry_after=timedelta(seconds=seconds),
            limited=whose,
            method=name,
            limit=allowance.limit,
            remaining=allowance.remaining,
            reset_seconds=allowance.reset_seconds,
        )
        self.allowance = allowance
        self.seconds = seconds

    @property
    def headers(self) -> Headers:
        """What the caller hears beside the status."""
        return (*self.allowance.headers, (_RETRY_AFTER, str(max(1, math.ceil(self.seconds)))))


class TooManyInProgress(Exhausted):
    """The tenant has as many calls in progress at this server as it may. Wait until one ends."""

    reason = "TOO_MANY_IN_PROGRESS"

    def __init__(self, *, what: str, most: int) -> None:
        super().__init__(
            f"your tenant has {most} {what} in progress here, which is its share; try again when one has ended",
            retry_after=timedelta(seconds=1),
            limited="tenant",
            most=most,
        )

    @property
    def headers(self) -> Headers:
        """What the caller hears beside the status."""
        return ((_RETRY_AFTER, "1"),)


class RouteLimits(Protocol):
    """The limits of one RPC."""

    def count(self, principal: Principal | None, connection: Connection | None) -> Awaitable[Allowance | None]:
        """Counts one call, or item, that comes from outside; None when nothing limits it.

        Args:
            connection: tells the client's address, where addresses count; None for items of a stream.
        Raises: RateLimited.
        """
        ...

    def enter(self, principal: Principal | None, *, outside: bool) -> Callable[[], None]:
        """Takes a seat among the calls in progress; what it gives is called once when the call has ended.

        Raises: TooManyInProgress: for calls from outside only.
        """
        ...


class Limits(Protocol):
    """Counts the calls of a server."""

    def route(self, method: str, guard: Guard) -> RouteLimits:
        """Gives the limits of an RPC. Called once for each."""
        ...


def limited(rpc: "Rpc", inner: "Handler") -> "Handler":
    """Counts the call before it begins, unless a service of the mesh makes it: that was counted where it came in.

    Items of a batch stream from outside are counted one by one, each for its own identity, by the stream's session.
    """
    limits = rpc.admission.limits
    if limits is None:
        return inner
    try:
        guard = rpc.admission.guard(rpc.method)
    except GuardMissing:
        # Refused by the next layer outwards, at every call.
        return inner
    route = limits.route(rpc.method, guard)
    batch = bool(rpc.handler.response_streaming and rpc.handler.request_streaming)

    async def handle(request: Any, context: "Context") -> Any:
        call = current_call()
        principal, peer = (None, None) if call is None else (call.principal, call.peer)
        outside = peer is None
        try:
            leave = route.enter(principal, outside=outside)
        except TooManyInProgress as refusal:
            _put(call, refusal.headers)
            raise
        try:
            if not outside or batch:
                return await inner(request, context)
            try:
                allowance = await route.count(principal, context)
            except RateLimited as refusal:
                _put(call, refusal.headers)
                raise
            if allowance is None or call is None:
                return await inner(request, context)
            _put(call, allowance.headers)
            answer = await inner(request, context)
            await tell_headers(call, context)
            return answer
        finally:
            leave()

    return handle


def _put(call: Call | None, headers: Headers) -> None:
    if call is not None:
        call.headers = headers


async def tell_headers(call: Call, context: "Context") -> None:
    """Sends what goes ahead of the answer, once it is certain that there is one.

    What was sent earlier would commit the edge to success: it could then neither give a REST caller of a stream the
    status of the failure, nor say UNAVAILABLE when this process dies in the middle.
    """
    headers, call.headers = call.headers, None
    if headers:
        await context.send_initial_metadata(headers)


async def begin_watch(context: "Context") -> None:
    """Tells the caller of a watch that it is taken, though there may be nothing to hear for long.

    To be called once whatever can refuse the watch has been looked at, for the reason above; again it does nothing.
    """
    call = current_call()
    if call is not None and call.headers is not None:
        headers, call.headers = call.headers, None
        await context.send_initial_metadata(headers)


async def tell_failed(context: "Context", *, streaming: bool) -> None:
    """Tells a caller whose call fails how it stands: with the status of a stream that never began, else ahead of it."""
    call = current_call()
    if call is None or not call.headers:
        return
    headers, call.headers = call.headers, None
    if streaming:
        context.set_trailing_metadata(headers)
    else:
        await context.send_initial_metadata(headers)
