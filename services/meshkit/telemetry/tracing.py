"""Spans of what this process does, and the trace contexts that it passes on, also where nothing is recorded.

Whether a trace is recorded is decided where it begins (`sampling`); below, an unrecorded span is next to nothing: no
object, no attributes, no hash. Ended spans wait in a bounded queue, which a thread of its own empties towards the
collector. A call never waits for that: what does not fit into the queue, or does not arrive, is counted and lost.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Final

import msgspec
from opentelemetry.trace import SpanKind
from opentelemetry.util.types import AttributeValue

from services.meshkit.telemetry import names
from services.meshkit.telemetry.sampling import Sampling, is_recorded
from services.meshkit.telemetry.scope import Scope, current_scope, enter_scope

if TYPE_CHECKING:
    from services.meshkit.telemetry.exporting import Exporting

#: Names of attributes stand in `names` and `genai`.
Attributes = Mapping[str, AttributeValue]
#: Finds attributes out; called for spans that are recorded only.
Tell = Callable[[], Attributes]


class _Process:
    """What this process does about traces."""

    #: Where its spans go; without a collector there is no such place, and none is recorded.
    exporting: "Exporting | None" = None
    sampling: Sampling = Sampling(0.0, random=Random(), secret=SystemRandom())


def setup_tracing(
    service: str,
    endpoint: str | None,
    *,
    ratio: float = 1.0,
    most_waiting: int = 4096,
    random: Random | None = None,
) -> None:
    """Sends spans to the OTLP collector at `endpoint`. Without one nothing is recorded. The first call wins.

    Args:
        ratio: part of the traces that begin here that is recorded, 0 to 1; also of those that only neighbours record.
        most_waiting: spans that may wait for the collector.
        random: dice; by default nobody knows what they will show.
    """
    if _Process.exporting is not None:
        return
    _Process.sampling = Sampling(ratio, random=random or Random(), secret=random or SystemRandom())
    if endpoint is not None:
        # Imported only here: the SDK and exporter cost memory that a mesh without a collector need not pay.
        from services.meshkit.telemetry.exporting import Exporting

        _Process.exporting = Exporting(service, endpoint, most_waiting=most_waiting)


def end_tracing() -> None:
    """Sends what waits, for a second at most, and records no more."""
    exporting, _Process.exporting = _Process.exporting, None
    _Process.sampling = Sampling(0.0, random=Random(), secret=SystemRandom())
    if exporting is not None:
        exporting.close()


def planned_traceparent(*named: str) -> str:
    """Gives the trace context of a thing by its name: whoever works on it, wherever, whenever, finds the same ids."""
    return _Process.sampling.planned(*named)


def received_traceparent(said: str | None, *, neighbour: bool) -> str:
    """Gives the trace context under which a call goes on; empty where it came with none.

    Args:
        said: W3C trace context that it came with.
        neighbour: a service of this mesh has proven that it calls. Nobody else decides what is recorded.
    """
    return _Process.sampling.received(said, neighbour=neighbour) if said else ""


class Recorded:
    """The span of a block, to add to what is known only within."""

    __slots__ = ()

    @property
    def on(self) -> bool:
        """Whether it is recorded: what it would be told need not be found out otherwise."""
        return False

    def tell(self, attributes: Attributes) -> None:
        """Adds attributes."""


_UNRECORDED: Final = Recorded()


class _Unchanged(AbstractContextManager[Recorded]):
    """A span that is not recorded of a block that stays in the trace it is in."""

    __slots__ = ()

    def __enter__(self) -> Recorded:
        return _UNRECORDED

    def __exit__(self, *_: object) -> None:
        pass


_UNCHANGED: Final = _Unchanged()


class _Within(AbstractContextManager[Recorded]):
    """A span that is not recorded of a block that works within another trace."""

    __slots__ = ("_before", "_inside")

    def __init__(self, before: Scope, traceparent: str) -> None:
        self._before = before
        self._inside = before.within(traceparent)

    def __enter__(self) -> Recorded:
        enter_scope(self._inside)
        return _UNRECORDED

    def __exit__(self, raised: type[BaseException] | None, *_: object) -> None:
        now = current_scope()
        # What the block found out about whom it works for stays, such as the run.
        enter_scope(self._before if now is self._inside else now.within(self._before.traceparent))


class SpanRecord(msgspec.Struct, gc=False):
    """What is recorded of a span, as it is known where the work is done; `exporting` makes of it what is sent."""

    name: str
    #: Trace context of the span, and of the one above it; empty above a root.
    own: str
    parent: str
    #: The span above is that of another process.
    remote: bool
    kind: SpanKind
    attributes: dict[str, AttributeValue]
    #: Unix time, nanoseconds.
    began: int
    ended: int = 0
    #: Why, where it did.
    failed: str = ""


class _Recording(_Within, Recorded):
    """A span that is recorded."""

    __slots__ = ("_exporting", "_record")

    def __init__(self, before: Scope, record: SpanRecord, exporting: "Exporting") -> None:
        super().__init__(before, record.own)
        self._record = record
        self._exporting = exporting

    @property
    def on(self) -> bool:
        return True

    def tell(self, attributes: Attributes) -> None:
        self._record.attributes.update(attributes)

    def __enter__(self) -> Recorded:
        super().__enter__()
        return self

    def __exit__(self, raised: type[BaseException] | None, *_: object) -> None:
        if raised is not None:
            # An exception's text may quote what a user wrote; the span says which kind it was, the log where it came
            # from.
            self._record.failed = raised.__name__
        self._record.ended = time.time_ns()
        self._exporting.take(self._record)
        super().__exit__(raised)


def span(
    name: str, *, traceparent: str = "", kind: SpanKind = SpanKind.INTERNAL, attributes: Tell | None = None
) -> AbstractContextManager[Recorded]:
    """Records the block that is entered with it as a span named by a constant of `names`.

    Args:
        traceparent: trace context of the caller, as `received_traceparent` or `planned_traceparent` gave it; without it
            the span is a child of the running one, or begins a trace.
    """
    scope, exporting = current_scope(), _Process.exporting
    parent = traceparent or scope.traceparent
    if exporting is not None and (is_recorded(parent) or not parent):
        own = _Process.sampling.below(parent) if parent else _Process.sampling.begun()
        if is_recorded(own):
            told = _told(scope, attributes)
            record = SpanRecord(name, own, parent, bool(traceparent), kind, told, time.time_ns())
            return _Recording(scope, record, exporting)
        parent = own
    return _UNCHANGED if parent == scope.traceparent else _Within(scope, parent)


def span_began() -> int:
    """Gives what `past_span` takes as the beginning; 0 while nothing is recorded."""
    return 0 if _Process.exporting is None else time.time_ns()


def past_span(name: str, *, traceparent: str, began: int, failed: str = "", attributes: Tell | None = None) -> None:
    """Records what has ended by now as a child of `traceparent`: for work that many share, which is no block.

    Args:
        traceparent: as `received_traceparent` gave it.
        began: what `span_began` gave then.
        failed: why, where it did.
    """
    exporting = _Process.exporting
    if exporting is None or not began or not is_recorded(traceparent):
        return
    own, told = _Process.sampling.below(traceparent), _told(current_scope(), attributes)
    ended = time.time_ns()
    exporting.take(SpanRecord(name, own, traceparent, True, SpanKind.SERVER, told, began, ended, failed))


def planned_span(
    name: str,
    *,
    traceparent: str,
    began: int,
    ended: int,
    failed: str = "",
    attributes: Tell | None = None,
) -> None:
    """Records what `planned_traceparent` named: the root of a trace, whose other spans may have arrived before it.

    Args:
        began, ended: Unix time, nanoseconds.
        failed: why, where it did.
    """
    exporting = _Process.exporting
    if exporting is None or not is_recorded(traceparent):
        return
    told = _told(current_scope(), attributes)
    exporting.take(SpanRecord(name, traceparent, "", False, SpanKind.INTERNAL, told, began, ended, failed))


def is_recording() -> bool:
    """Whether spans go anywhere at all."""
    return _Process.exporting is not None


def _told(scope: Scope, attributes: Tell | None) -> dict[str, AttributeValue]:
    told: dict[str, AttributeValue] = {names.ATTRIBUTE_SERVICE: scope.service}
    if attributes is not None:
        told.update(attributes())
    if scope.correlation_id:
        told[names.ATTRIBUTE_CORRELATION_ID] = scope.correlation_id
    return told
