"""The RPC that the running task answers: who calls, how long it may take, whether the server is stopping."""

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from services.meshkit.core.errors import Unauthenticated
from services.meshkit.core.identity import Caller, Principal

if TYPE_CHECKING:
    from services.meshkit.grpc.client_address import Connection
    from services.meshkit.grpc.guard import Admission
    from services.meshkit.grpc.identity import VerifiedToken

#: Metadata beside an answer, which REST callers get as headers.
Headers = tuple[tuple[str, str], ...]


class Drain:
    """Tells what runs long that its server is stopping."""

    def __init__(self) -> None:
        #: Callers are asked to go elsewhere; whoever comes meanwhile is served.
        self.leaving = False
        #: Set when nobody has to be told first, or any longer, since everybody stops.
        self.at_once = asyncio.Event()
        self.begun = False
        #: True where something broke: nobody waits for what could be ended in order.
        self.broken = False
        self._listeners: set[Callable[[], None]] = set()

    def begin(self) -> None:
        """Calls every listener once; later ones are called at once."""
        self.leaving = self.begun = True
        for listener in tuple(self._listeners):
            listener()

    @contextmanager
    def notify(self, listener: Callable[[], None]) -> Generator[None]:
        """Has `listener` called when the server begins to stop within the block."""
        self._listeners.add(listener)
        if self.begun:
            listener()
        try:
            yield
        finally:
            self._listeners.discard(listener)


@dataclass(slots=True, kw_only=True)
class Call:
    """One RPC being answered."""

    #: Name of the service that answers.
    service: str
    #: Full name, `/comitia.tools.v1.ToolService/InvokeTool`.
    method: str
    #: Time of the event loop at which the answer is no longer wanted.
    expires: float
    drain: Drain
    admission: "Admission"
    principal: Principal | None = None
    #: What `principal` was read from.
    verified: "VerifiedToken | None" = None
    #: Name of the calling service, proven by its assertion.
    peer: str | None = None
    #: Tells where the call comes from.
    connection: "Connection | None" = None
    #: What the caller hears with the first message of the answer, or with the beginning of a watch; None once it left.
    headers: Headers | None = ()


_current: ContextVar[Call | None] = ContextVar("call", default=None)


def enter_call(call: Call) -> None:
    """Makes `call` the call of the running task."""
    _current.set(call)


def current_call() -> Call | None:
    """Gives the RPC that the running task answers, None in background work."""
    return _current.get()


def caller_of(context: object) -> Caller:
    """Gives the verified caller of the RPC that is being answered.

    Args:
        context: the context gRPC gave the servicer; named so that nobody asks outside an RPC.
    Raises: Unauthenticated: the RPC is open, or a batch stream whose items name their identities.
    """
    call = _current.get()
    if call is None or call.principal is None:
        raise Unauthenticated("this call carries no identity of a tenant")
    return Caller(principal=call.principal, peer=call.peer)


def peer_of(context: object) -> str | None:
    """Gives the name of the calling service, None for an outside caller."""
    call = _current.get()
    return None if call is None else call.peer


def seconds_left() -> float | None:
    """Gives the time that the caller still waits, >= 0; None in background work, where nobody does."""
    call = _current.get()
    if call is None:
        return None
    return max(0.0, call.expires - asyncio.get_running_loop().time())


@contextmanager
def beyond_the_caller(seconds: float) -> Generator[None]:
    """Gives calls of the block at least so much time, even when that of the RPC they are made for is used up.

    For what has to follow once something has taken place, such as paying for it.
    """
    call = _current.get()
    if call is None:
        yield
        return
    expires = max(call.expires, asyncio.get_running_loop().time() + seconds)
    _current.set(replace(call, expires=expires))
    try:
        yield
    finally:
        _current.set(call)
