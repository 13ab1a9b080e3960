"""Serves the audit entries of this service to the gateway, which chains them, and forgets old ones that it has."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp
from grpc.aio import ServicerContext

from comitia.common.v1 import audit_pb2 as pb
from comitia.common.v1.audit_pb2_grpc import AuditFeedServiceServicer
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import ErrorKind, Invalid, MeshError
from services.meshkit.core.ids import from_uuid
from services.meshkit.sql.audit import STREAMS
from services.meshkit.sql.audit_store import SqlAuditStore
from services.meshkit.telemetry.logs import logger

DEFAULT_PAGE: Final = 1_000
MAX_PAGE: Final = 10_000
#: Bytes of entries in an answer; it has to pass as one message.
MAX_PAGE_BYTES: Final = 3 * 1024 * 1024
#: Pause between two looks for entries to forget, seconds, and how many go at once.
_FORGET_SECONDS: Final = 600.0
_FORGET_MOST: Final = 5_000
_LARGEST_POSITION: Final = 2**63 - 1

log = logger(__name__)

Context = ServicerContext[pb.PullAuditEntriesRequest, pb.PullAuditEntriesResponse]


class AuditFeed(AuditFeedServiceServicer):
    """Gives entries of all tenants, each stream in order and without gaps."""

    def __init__(self, store: SqlAuditStore, *, service: str, clock: Clock) -> None:
        self._store = store
        self._service = service
        self._clock = clock
        #: What the gateway said last that it has, by stream.
        self._taken: dict[int, int] = {}

    async def PullAuditEntries(  # noqa: N802  # the contract's name
        self, request: pb.PullAuditEntriesRequest, context: Context
    ) -> pb.PullAuditEntriesResponse:
        cursors = _cursors(request)
        most = min(request.page_size or DEFAULT_PAGE, MAX_PAGE)
        rows = await self._store.after(cursors, most=most + 1)
        self._taken = cursors
        entries, size = list[pb.AuditEntry](), 0
        for row in rows[:most]:
            entry = entry_to_proto(row, service=self._service)
            size += entry.ByteSize()
            if size > MAX_PAGE_BYTES and entries:
                break
            entries.append(entry)
        return pb.PullAuditEntriesResponse(entries=entries, more=len(rows) > len(entries))

    async def forget(self) -> None:
        """Forgets old entries, now and then, until cancelled. What the gateway may not have yet stays."""
        while True:
            await self._clock.sleep(_FORGET_SECONDS)
            try:
                while await self.forget_once() == _FORGET_MOST:
                    pass
            except MeshError as error:
                if error.kind not in (ErrorKind.UNAVAILABLE, ErrorKind.EXHAUSTED, ErrorKind.CONFLICT):
                    raise
                log.warning("old audit entries stay for now", reason=error.reason, why=error.message)

    async def forget_once(self) -> int:
        """Deletes some entries that the gateway has and that are older than a week; returns how many."""
        return await self._store.forget(self._taken, most=_FORGET_MOST) if self._taken else 0


def entry_to_proto(row: Mapping[str, Any], *, service: str) -> pb.AuditEntry:
    """Writes a row as the contract says."""
    written = Timestamp()
    written.FromDatetime(row["record_time"])
    return pb.AuditEntry(
        service=service,
        stream=row["stream"],
        position=row["position"],
        record_time=written,
        tenant_id=from_uuid("tenant", row["tenant_id"]),
        actor=row["actor"],
        peer=row["peer"],
        action=row["action"],
        method=row["method"],
        target=row["target"],
        outcome=pb.AuditOutcome.ValueType(row["outcome"]),
        reason=row["reason"],
        request_hash=row["request_hash"],
        request_id=row["request_id"],
        correlation_id=row["correlation_id"],
        source_address=row["source_address"],
        details=row["details"],
    )


def _cursors(request: pb.PullAuditEntriesRequest) -> dict[int, int]:
    if request.page_size < 0:
        raise Invalid("page_size", "must be 0 or more")
    found: dict[int, int] = {}
    for index, cursor in enumerate(_bounded(request.cursors)):
        if not 0 <= cursor.stream < STREAMS:
            raise Invalid(f"cursors[{index}].stream", f"must be 0 to {STREAMS - 1}")
        if not 0 <= cursor.position < _LARGEST_POSITION:
            raise Invalid(f"cursors[{index}].position", "must be 0 or more")
        if cursor.stream in found:
            raise Invalid(f"cursors[{index}].stream", "is named twice")
        found[cursor.stream] = cursor.position
    return found


def _bounded(
    cursors: Sequence[pb.PullAuditEntriesRequest.Cursor],
) -> Sequence[pb.PullAuditEntriesRequest.Cursor]:
    if len(cursors) > STREAMS:
        raise Invalid("cursors", f"at most {STREAMS}, one per stream")
    return cursors
