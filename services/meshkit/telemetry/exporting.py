"""How spans leave the process: by what queue, to which collector.

Loaded only where a collector is configured.
"""

from collections.abc import Sequence, Sized
from typing import Any, Final, cast

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.tracing import Attributes

#: Spans sent at once, and the longest that one waits to be, milliseconds.
_BATCH: Final = 512
_WAIT_MS: Final = 1000
#: Longest time that the collector may take for a batch, seconds; what it does not take by then is lost.
_EXPORT_SECONDS: Final = 5
#: Longest time that the end of the process waits for what is left, milliseconds.
_CLOSE_MS: Final = 1000

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_WELL: Final = Status()
_SCOPE: Final = InstrumentationScope("comitia")


class Exporting:
    """Sends the spans of a process to a collector.

    Spans come as they have ended, and are put into the form of OpenTelemetry then. Its tracer, which makes an object
    with locks and bounds for each that begins, takes five times as long.
    """

    def __init__(self, service: str, endpoint: str, *, most_waiting: int) -> None:
        self._resource = Resource.create({"service.name": service, "service.namespace": "comitia"})
        exporter = OTLPSpanExporter(
            endpoint=endpoint,
            insecure=endpoint.startswith("http://"),
            timeout=_EXPORT_SECONDS,
            # No proxy of the environment comes between, as between services.
            # Its type knows options of text only.
            channel_options=cast(Any, (("grpc.enable_http_proxy", 0),)),
        )
        self._queue = BoundedQueue(CountedExporter(exporter), most_waiting=most_waiting)

    def take(
        self,
        name: str,
        own: str,
        *,
        parent: str,
        remote: bool,
        kind: SpanKind,
        began: int,
        ended: int,
        failed: str,
        attributes: Attributes,
    ) -> None:
        """Takes a span that has ended. Never waits.

        Args:
            own, parent: its trace context and that of the span above, empty of a root.
            remote: the span above is that of another process.
            failed: why, where it did.
        """
        self._queue.on_end(
            ReadableSpan(
                name,
                _context(own, remote=False),
                _context(parent, remote=remote) if parent else None,
                self._resource,
                attributes,
                kind=kind,
                status=Status(StatusCode.ERROR, failed) if failed else _WELL,
                start_time=began,
                end_time=ended,
                instrumentation_scope=_SCOPE,
            )
        )

    def close(self) -> None:
        """Sends what waits, for a bounded time, and stops."""
        self._queue.close()


def _context(traceparent: str, *, remote: bool) -> SpanContext:
    return SpanContext(int(traceparent[3:35], 16), int(traceparent[36:52], 16), is_remote=remote, trace_flags=_SAMPLED)


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
