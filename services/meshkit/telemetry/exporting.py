"""How spans leave the process: of which traces, by what queue, to which collector.

Loaded only where a collector is configured.
"""

from collections.abc import Sequence, Sized
from contextvars import ContextVar
from hashlib import sha256
from random import Random
from typing import Any, Final, cast

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags, set_span_in_context

from services.meshkit.telemetry import metrics, names
from services.meshkit.telemetry.scope import Scope
from services.meshkit.telemetry.tracing import Attributes

#: Spans sent at once, and the longest that one waits to be, milliseconds.
_BATCH: Final = 512
_WAIT_MS: Final = 1000
#: Longest time that the collector may take for a batch, seconds; what it does not take by then is lost.
_EXPORT_SECONDS: Final = 5
#: Longest time that the end of the process waits for what is left, milliseconds.
_CLOSE_MS: Final = 1000

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)


class Tracing:
    """Records the spans of a process and sends them to a collector.

    Which traces follows from their ids alone, by a hash: so all services record the same ones, and what a caller from
    outside says of its own trace, by low ids or by the flag, neither fills the queue nor hides a call.
    """

    def __init__(self, service: str, endpoint: str, *, ratio: float, most_waiting: int) -> None:
        self._bound = round(ratio * 2**64)
        self._random = Random()
        self._ids = _PlannedIds()
        provider = TracerProvider(
            resource=Resource.create({"service.name": service, "service.namespace": "comitia"}),
            sampler=ALWAYS_ON,
            id_generator=self._ids,
            # Else the interpreter would wait for the collector when it ends, as long as that takes.
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(
            endpoint=endpoint,
            insecure=endpoint.startswith("http://"),
            timeout=_EXPORT_SECONDS,
            # No proxy of the environment comes between, as between services.
            # Its type knows options of text only.
            channel_options=cast(Any, (("grpc.enable_http_proxy", 0),)),
        )
        self._queue = BoundedQueue(CountedExporter(exporter), most_waiting=most_waiting)
        provider.add_span_processor(self._queue)
        self._tracer = provider.get_tracer("comitia")

    def begin(
        self,
        name: str,
        parent: str,
        *,
        scope: Scope,
        remote: bool,
        kind: SpanKind,
        attributes: Attributes | None,
        began: int | None = None,
    ) -> tuple[Span | None, str]:
        """Starts a span under `parent`, or a trace of its own; gives it, and the trace context within.

        A span of a trace that is not recorded is None.
        """
        if not parent:
            fresh = f"00-{self._random.getrandbits(128):032x}-{self._random.getrandbits(64):016x}-"
            if not self._takes(fresh + "01"):
                return None, fresh + "00"
            return self._start(name, Context(), kind, scope, attributes, began, planned=fresh + "01")
        if not self._takes(parent):
            return None, parent
        above = SpanContext(int(parent[3:35], 16), int(parent[36:52], 16), is_remote=remote, trace_flags=_SAMPLED)
        context = set_span_in_context(NonRecordingSpan(above), Context())
        return self._start(name, context, kind, scope, attributes, began)

    def begin_planned(
        self, name: str, traceparent: str, *, scope: Scope, attributes: Attributes | None, began: int
    ) -> Span | None:
        """Starts the root of a trace whose ids were known before; None if that is not recorded."""
        if not self._takes(traceparent):
            return None
        started, _ = self._start(name, Context(), SpanKind.INTERNAL, scope, attributes, began, planned=traceparent)
        return started

    def close(self) -> None:
        """Sends what waits, for a bounded time, and stops."""
        self._queue.close()

    def _takes(self, traceparent: str) -> bool:
        return int.from_bytes(sha256(traceparent[3:35].encode()).digest()[:8], "big") < self._bound

    def _start(
        self,
        name: str,
        context: Context,
        kind: SpanKind,
        scope: Scope,
        attributes: Attributes | None,
        began: int | None,
        *,
        planned: str = "",
    ) -> tuple[Span, str]:
        told = {names.ATTRIBUTE_SERVICE: scope.service, **(attributes or {})}
        if scope.correlation_id:
            told[names.ATTRIBUTE_CORRELATION_ID] = scope.correlation_id
        token = self._ids.planned.set(planned)
        try:
            started = self._tracer.start_span(name, context, kind, told, start_time=began)
        finally:
            self._ids.planned.reset(token)
        its = started.get_span_context()
        return started, f"00-{trace.format_trace_id(its.trace_id)}-{trace.format_span_id(its.span_id)}-01"


class _PlannedIds(RandomIdGenerator):
    """Random ids, but for roots: their ids are known before they are recorded."""

    def __init__(self) -> None:
        #: The trace context of the span that is being started, if it is a root.
        self.planned: Final = ContextVar("planned", default="")

    def generate_trace_id(self) -> int:
        planned = self.planned.get()
        return int(planned[3:35], 16) if planned else super().generate_trace_id()

    def generate_span_id(self) -> int:
        planned = self.planned.get()
        return int(planned[36:52], 16) if planned else super().generate_span_id()


class CountedExporter(SpanExporter):
    """Sends by another exporter, and counts what arrived and what was lost on the way."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See `SpanExporter.export`."""
        result = SpanExportResult.FAILURE
        try:
            result = self._inner.export(spans)
        finally:
            fate = "exported" if result is SpanExportResult.SUCCESS else "lost"
            metrics.SPANS.labels(fate).inc(len(spans))
        return result

    def shutdown(self) -> None:
        """See `SpanExporter.shutdown`."""
        self._inner.shutdown()


class BoundedQueue(BatchSpanProcessor):
    """Holds so many spans and no more: one that comes when it is full is counted and dropped."""

    def __init__(self, exporter: SpanExporter, *, most_waiting: int) -> None:
        super().__init__(
            exporter,
            max_queue_size=most_waiting,
            schedule_delay_millis=_WAIT_MS,
            max_export_batch_size=min(_BATCH, most_waiting),
        )
        # The queue itself is private to the class, and nothing public says how full it is.
        self._batch = self._batch_processor
        self._most_waiting = most_waiting
        self._dropped = metrics.SPANS.labels("dropped")
        metrics.QUEUE_ITEMS.labels("telemetry.spans").set_function(self._depth)

    def on_end(self, span: ReadableSpan) -> None:
        """See `SpanProcessor.on_end`."""
        # The class itself would drop the oldest instead, and write a log line for each.
        if self._depth() < self._most_waiting:
            super().on_end(span)
        else:
            self._dropped.inc()

    def close(self) -> None:
        """Sends what waits, for a bounded time, and stops."""
        self._batch.shutdown(timeout_millis=_CLOSE_MS)

    def _depth(self) -> int:
        waiting = cast(Sized, self._batch._queue)  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]
        return len(waiting)
