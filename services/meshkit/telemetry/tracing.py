"""Spans by OpenTelemetry. Trace ids travel on even when nothing is recorded."""

import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from services.meshkit.telemetry.scope import current_scope, enter_scope

_PROPAGATOR: Final = TraceContextTextMapPropagator()
#: Version 00 of the W3C trace context; other versions start alike.
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class _Recording:
    """Whether a collector is configured; without one a span costs next to nothing."""

    on = False


def setup_tracing(service: str, endpoint: str | None) -> None:
    """Sends spans to the OTLP collector at `endpoint`. Without one nothing is recorded. The first call wins."""
    if endpoint is None or _Recording.on:
        return
    # Imported only here: the SDK and exporter cost memory that a mesh without a collector need not pay.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": service, "service.namespace": "comitia"}))
    provider.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://")))
    )
    trace.set_tracer_provider(provider)
    _Recording.on = True


@contextmanager
def span(name: str, *, traceparent: str | None = None, **attributes: AttributeValue) -> Generator[None]:
    """Records the block as a span named by a constant of `names`.

    Args:
        traceparent: W3C trace context of the caller; without it the span is a child of the running one.
    """
    scope = current_scope()
    parent = traceparent if traceparent and _TRACEPARENT.fullmatch(traceparent) else None
    if not _Recording.on:
        if parent is not None:
            enter_scope(replace(scope, traceparent=parent, trace_id=parent[3:35]))
        yield
        return
    tracer = trace.get_tracer("comitia")
    # An exception's text may quote what a user wrote; the span says which kind it was, the log where it came from.
    with tracer.start_as_current_span(
        name, context=_context(parent), attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as started:
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier)
        enter_scope(
            replace(
                scope,
                traceparent=carrier.get("traceparent", ""),
                trace_id=trace.format_trace_id(started.get_span_context().trace_id),
            )
        )
        try:
            yield
        except BaseException as error:
            started.set_status(trace.Status(trace.StatusCode.ERROR, type(error).__name__))
            raise
        finally:
            enter_scope(scope)


def _context(traceparent: str | None) -> Context | None:
    return _PROPAGATOR.extract({"traceparent": traceparent}) if traceparent else None
