"""An audit feed that behaves: gapless streams in memory, served as a service serves its own.

It earns trust by `tests/contract/ports/test_audit_feed.py`, which the services' real feed passes too.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import grpc
import grpc.aio

from comitia.common.v1 import audit_pb2
from comitia.common.v1.audit_pb2_grpc import AuditFeedServiceServicer, add_AuditFeedServiceServicer_to_server
from services.meshkit.core.ids import from_uuid

STREAMS: Final = 8
_DEFAULT_PAGE: Final = 1_000
_MOST: Final = 10_000


@dataclass(slots=True)
class FakeAuditFeed(AuditFeedServiceServicer):
    """What one service wrote. Streams are filled in turn, or where a test says."""

    service: str = "cost"
    streams: dict[int, list[audit_pb2.AuditEntry]] = field(
        default_factory=lambda: {stream: [] for stream in range(STREAMS)}
    )
    #: True makes it answer UNAVAILABLE.
    away: bool = False
    pulls: int = 0
    _turn: int = 0
    _next: dict[int, int] = field(default_factory=dict[int, int])

    def write(self, tenant: UUID, *, stream: int | None = None, **fields: Any) -> audit_pb2.AuditEntry:
        """Writes an entry at the end of a stream."""
        if stream is None:
            stream, self._turn = self._turn % STREAMS, self._turn + 1
        self._next[stream] = self._next.get(stream, 0) + 1
        written: dict[str, Any] = {
            "service": self.service,
            "stream": stream,
            "position": self._next[stream],
            "tenant_id": from_uuid("tenant", tenant),
            "actor": "key_01jx0000000000000000000000",
            "action": "budgets.limit",
            "method": "comitia.cost.v1.BudgetService/SetBudgetLimit",
            "target": f"budget_{stream}_{self._next[stream]}",
            "outcome": audit_pb2.AUDIT_OUTCOME_SUCCEEDED,
            "request_hash": bytes(32),
        }
        entry = audit_pb2.AuditEntry(**(written | fields))
        if not entry.HasField("record_time"):
            entry.record_time.FromDatetime(datetime.now(UTC))
        self.streams.setdefault(stream, []).append(entry)
        return entry

    def lose(self, stream: int, position: int) -> None:
        """Takes an entry out, as somebody would who has something to hide."""
        self.streams[stream] = [entry for entry in self.streams[stream] if entry.position != position]

    def restore(self, stream: int, position: int) -> None:
        """Goes back to the state in which this entry was the newest, as a backup that is played back does."""
        self.streams[stream] = [entry for entry in self.streams[stream] if entry.position <= position]
        self._next[stream] = position

    async def PullAuditEntries(
        self, request: audit_pb2.PullAuditEntriesRequest, context: Any
    ) -> audit_pb2.PullAuditEntriesResponse:
        self.pulls += 1
        if self.away:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the service is away")
        after: Mapping[int, int] = {cursor.stream: cursor.position for cursor in request.cursors}
        waiting = [
            entry
            for stream, entries in self.streams.items()
            for entry in entries
            if entry.position > after.get(stream, 0)
        ]
        size = min(request.page_size or _DEFAULT_PAGE, _MOST)
        waiting.sort(key=lambda entry: (entry.record_time.ToNanoseconds(), entry.stream, entry.position))
        return audit_pb2.PullAuditEntriesResponse(entries=waiting[:size], more=len(waiting) > size)


@asynccontextmanager
async def served(*feeds: FakeAuditFeed) -> AsyncGenerator[dict[str, str]]:
    """Serves feeds on free ports; gives the gateway's settings that name them, such as `cost_target`."""
    servers: list[grpc.aio.Server] = []
    targets: dict[str, str] = {}
    try:
        for feed in feeds:
            server = grpc.aio.server()
            add_AuditFeedServiceServicer_to_server(feed, server)
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            servers.append(server)
            targets[f"{feed.service}_target"] = f"127.0.0.1:{port}"
        yield targets
    finally:
        for server in servers:
            await server.stop(None)
