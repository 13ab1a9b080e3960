"""What the work at hand belongs to: carried along by asyncio, written into every log line."""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """The service, session and trace that the running code works for."""

    service: str = ""
    #: Session or run; without one, the request id of the edge.
    correlation_id: str = ""
    #: 32 hexadecimal digits, empty outside a trace.
    trace_id: str = ""
    #: W3C trace context to pass on, empty outside a trace.
    traceparent: str = ""


_EMPTY = Scope()
_current: ContextVar[Scope] = ContextVar("scope", default=_EMPTY)


def current_scope() -> Scope:
    """Gives the scope of the running task."""
    return _current.get()


def enter_scope(scope: Scope) -> None:
    """Makes `scope` the scope of the rest of the running task and of the tasks it starts."""
    _current.set(scope)


@contextmanager
def scoped(*, service: str | None = None, correlation_id: str | None = None) -> Generator[Scope]:
    """Names the service or the session for the block; log lines within carry it."""
    before = _current.get()
    inside = replace(
        before,
        service=before.service if service is None else service,
        correlation_id=before.correlation_id if correlation_id is None else correlation_id,
    )
    token = _current.set(inside)
    try:
        yield inside
    finally:
        _current.reset(token)
