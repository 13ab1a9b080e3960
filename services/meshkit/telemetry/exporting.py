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
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.tracing import SpanRecord

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

    They come as they have ended, and are put into OpenTelemetry's form by the thread that sends them. Its tracer, which
    makes an object with locks and bounds as each begins, takes a call five times as long.
    """

    def __init__(self, service: str, endpoint: str, *, most_waiting: int) -> None:
        resource = Resource.create({"service.name": service, "service.namespace": "comitia"})
        exporter = OTLPSpanExporter(
            endpoint=endpoint,
            insecure=endpoint.startswith("http://"),
            timeout=_EXPORT_SECONDS,
            # No proxy of the environment comes between, as between services.
            # Its type knows options of text only.
            channel_options=cast(Any, (("grpc.enable_http_proxy", 0),)),
        )
        self._queue = BoundedQueue(CountedExporter(exporter, resource), most_waiting=most_waiting)

    def take(self, record: SpanRecord) -> None:
        """Takes a span that has ended. Never waits."""
        self._queue.take(record)

    def close(self) -> None:
        """Sends what waits, for a bounded time, and stops."""
        self._queue.close()


class CountedExporter:
    """Sends by OpenTelemetry's exporter, and counts what arrived and what was lost on the way."""

    def __init__(self, inner: SpanExporter, resource: Resource) -> None:
        self._inner = inner
        self._resource = resource

    def export(self, records: Sequence[SpanRecord]) -> None:
        """Sends a batch. Waits for the collector."""
        result = SpanExportResult.FAILURE
        try:
            result = self._inner.export([self._span(record) for record in records])
        finally:
            fate = "exported" if result is SpanExportResult.SUCCESS else "lost"
            metrics.SPANS.labels(fate).inc(len(records))

    def shutdown(self) -> None:
        """Closes what it sends by."""
        self._inner.shutdown()

    def _span(self, record: SpanRecord) -> ReadableSpan:
        return ReadableSpan(
            record.name,
            _context(record.own, remote=False),
            _context(record.parent, remote=record.remote) if record.parent else None,
            self._resource,
            record.attributes,
            kind=record.kind,
            status=Status(StatusCode.ERROR, record.failed) if record.failed else _WELL,
            start_time=record.began,
            end_time=record.ended,
            instrumentation_scope=_SCOPE,
        )


class BoundedQueue(BatchSpanProcessor):
    """Holds so many spans and no more: one that comes when it is full is counted and dropped."""

    def __init__(self, exporter: CountedExporter, *, most_waiting: int) -> None:
        super().__init__(
            # It is handed what is put in, whatever that is.
            cast(SpanExporter, exporter),
            max_queue_size=most_waiting,
            schedule_delay_millis=_WAIT_MS,
            max_export_batch_size=min(_BATCH, most_waiting),
        )
        # What holds the spans is private to the class, and nothing public says how full it is, nor takes other forms.
        self._batch = self._batch_processor
        self._most_waiting = most_waiting
        self._dropped = metrics.SPANS.labels("dropped")
        metrics.QUEUE_ITEMS.labels("telemetry.spans").set_function(self._depth)

    def take(self, record: SpanRecord) -> None:
        """Takes a span, or drops it. Never waits."""
        # The class itself would drop the oldest instead, and write a log line for each.
        if self._depth() < self._most_waiting:
            self._batch.emit(cast(Any, record))
        else:
            self._dropped.inc()

    def close(self) -> None:
        """Sends what waits, for a bounded time, and stops."""
        self._batch.shutdown(timeout_millis=_CLOSE_MS)

    def _depth(self) -> int:
        waiting = cast(Sized, self._batch._queue)  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]
        return len(waiting)


def _context(traceparent: str, *, remote: bool) -> SpanContext:
    return SpanContext(int(traceparent[3:35], 16), int(traceparent[36:52], 16), is_remote=remote, trace_flags=_SAMPLED)
