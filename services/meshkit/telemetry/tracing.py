"""Spans by OpenTelemetry. Trace ids travel on even when nothing is recorded.

A process that records puts ended spans into a bounded queue, which a thread of its own empties towards the collector.
A call never waits for that: what does not fit into the queue, or does not arrive, is counted and lost.
"""

import re
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from services.meshkit.telemetry.scope import Scope, current_scope, enter_scope

if TYPE_CHECKING:
    from services.meshkit.telemetry.exporting import Tracing

#: Version 00 of the W3C trace context; other versions start alike. Ids of zeros are none.
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
#: Names of attributes stand in `names` and `genai`.
Attributes = Mapping[str, AttributeValue]


class _Recording:
    """Where spans go; without a collector there is no such place, and a span costs next to nothing."""

    to: "Tracing | None" = None


class Recorded:
    """The span of a block, to add to what is known only within."""

    __slots__ = ("_span",)

    def __init__(self, span: Span | None) -> None:
        self._span = span

    @property
    def on(self) -> bool:
        """Whether it is recorded: what it would be told need not be found out otherwise."""
        return self._span is not None

    def tell(self, attributes: Attributes) -> None:
        """Adds attributes."""
        if self._span is not None:
            self._span.set_attributes(attributes)


_UNRECORDED: Final = Recorded(None)


def setup_tracing(service: str, endpoint: str | None, *, ratio: float = 1.0, most_waiting: int = 4096) -> None:
    """Sends spans to the OTLP collector at `endpoint`. Without one nothing is recorded. The first call wins.

    Args:
        ratio: part of all traces that is recorded, 0 to 1.
        most_waiting: spans that may wait for the collector.
    """
    if endpoint is None or _Recording.to is not None:
        return
    # Imported only here: the SDK and exporter cost memory that a mesh without a collector need not pay.
    from services.meshkit.telemetry.exporting import Tracing

    _Recording.to = Tracing(service, endpoint, ratio=ratio, most_waiting=most_waiting)


def end_tracing() -> None:
    """Sends what waits, for a second at most, and records no more."""
    tracing, _Recording.to = _Recording.to, None
    if tracing is not None:
        tracing.close()


def planned_traceparent(*named: str) -> str:
    """Gives the trace context of a thing by its name: whoever works on it, wherever and whenever, finds the same."""
    digest = sha256("\0".join(named).encode()).hexdigest()
    return f"00-{digest[:32]}-{digest[32:48]}-01"


@contextmanager
def span(
    name: str,
    *,
    traceparent: str | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Attributes | None = None,
) -> Generator[Recorded]:
    """Records the block as a span named by a constant of `names`.

    Args:
        traceparent: W3C trace context of the caller; without it the span is a child of the running one.
    """
    scope, tracing = current_scope(), _Recording.to
    given = traceparent if traceparent and _TRACEPARENT.fullmatch(traceparent) else ""
    inside, started = given or scope.traceparent, None
    if tracing is not None:
        started, inside = tracing.begin(name, inside, scope=scope, remote=bool(given), kind=kind, attributes=attributes)
    if inside != scope.traceparent:
        enter_scope(_within(scope, inside))
    try:
        yield _UNRECORDED if started is None else Recorded(started)
    except BaseException as error:
        # An exception's text may quote what a user wrote; the span says which kind it was, the log where it came from.
        if started is not None:
            started.set_status(Status(StatusCode.ERROR, type(error).__name__))
        raise
    finally:
        if started is not None:
            started.end()
        if inside != scope.traceparent:
            # What the block found out about whom it works for stays, such as the run.
            enter_scope(_within(current_scope(), scope.traceparent))


def is_recording() -> bool:
    """Whether spans go anywhere at all."""
    return _Recording.to is not None


def span_began() -> int:
    """Gives what `past_span` takes as the beginning; 0 while nothing is recorded."""
    return 0 if _Recording.to is None else time.time_ns()


def past_span(
    name: str, *, traceparent: str, began: int, failed: str = "", attributes: Attributes | None = None
) -> None:
    """Records what has ended by now as a child of `traceparent`: for work that many share, which is no block.

    Args:
        began: what `span_began` gave then.
        failed: why, where it did.
    """
    tracing = _Recording.to
    if tracing is None or not began or not _TRACEPARENT.fullmatch(traceparent):
        return
    started, _ = tracing.begin(
        name, traceparent, scope=current_scope(), remote=True, kind=SpanKind.SERVER, attributes=attributes, began=began
    )
    if started is not None:
        _end(started, None, failed)


def planned_span(
    name: str,
    *,
    traceparent: str,
    began: int,
    ended: int,
    failed: str = "",
    attributes: Attributes | None = None,
) -> None:
    """Records what `planned_traceparent` named: the root of a trace, whose other spans may have arrived before it.

    Args:
        began, ended: Unix time, nanoseconds.
        failed: why, where it did.
    """
    tracing = _Recording.to
    if tracing is None:
        return
    started = tracing.begin_planned(name, traceparent, scope=current_scope(), attributes=attributes, began=began)
    if started is not None:
        _end(started, ended, failed)


def _end(started: Span, ended: int | None, failed: str) -> None:
    if failed:
        started.set_status(Status(StatusCode.ERROR, failed))
    started.end(ended)


def _within(scope: Scope, traceparent: str) -> Scope:
    return replace(scope, traceparent=traceparent, trace_id=traceparent[3:35])
