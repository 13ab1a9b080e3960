"""A collector of traces for tests: a gRPC server of the OTLP contract that keeps what it is sent."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as pb_grpc


@dataclass(frozen=True, slots=True)
class SeenSpan:
    """A span as it arrived."""

    #: `service.name` of the process that sent it.
    service: str
    name: str
    trace_id: str
    span_id: str
    #: Empty of the root of a trace.
    parent_id: str
    failed: bool
    attributes: dict[str, Any]


@dataclass(slots=True)
class Receiver(pb_grpc.TraceServiceServicer):
    """Keeps all spans."""

    url: str = ""
    spans: list[SeenSpan] = field(default_factory=list[SeenSpan])
    #: The batches as they came, encoded.
    sent: list[bytes] = field(default_factory=list[bytes])
    #: While it is not set no batch is taken.
    takes: Event = field(default_factory=Event)

    def Export(self, request: pb.ExportTraceServiceRequest, context: Any) -> pb.ExportTraceServiceResponse:
        self.takes.wait()
        self.sent.append(request.SerializeToString())
        for of_process in request.resource_spans:
            service = _read(of_process.resource.attributes)["service.name"]
            for scope in of_process.scope_spans:
                self.spans += [
                    SeenSpan(
                        service=service,
                        name=span.name,
                        trace_id=span.trace_id.hex(),
                        span_id=span.span_id.hex(),
                        parent_id=span.parent_span_id.hex(),
                        failed=span.status.code == span.status.STATUS_CODE_ERROR,
                        attributes=_read(span.attributes),
                    )
                    for span in scope.spans
                ]
        return pb.ExportTraceServiceResponse()


@contextmanager
def running_receiver() -> Iterator[Receiver]:
    """Runs a collector on a free port while the block runs."""
    receiver = Receiver()
    receiver.takes.set()
    server = grpc.server(ThreadPoolExecutor(max_workers=8))
    pb_grpc.add_TraceServiceServicer_to_server(receiver, server)
    port = server.add_insecure_port("127.0.0.1:0")
    receiver.url = f"http://127.0.0.1:{port}"
    server.start()
    try:
        yield receiver
    finally:
        receiver.takes.set()
        server.stop(None).wait()


def _read(attributes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in attributes:
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, kind)
        found[pair.key] = [one.string_value for one in value.values] if kind == "array_value" else value
    return found
