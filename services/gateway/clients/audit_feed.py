"""Fetches the audit entries of a service."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC
from typing import TYPE_CHECKING, Final

import grpc.aio

from comitia.common.v1 import audit_pb2
from comitia.common.v1.audit_pb2_grpc import AuditFeedServiceStub
from comitia_sdk.audit import merkle
from comitia_sdk.audit.canonical import canonical_entry
from services.gateway.domain.audit_entry import FedEntry
from services.gateway.domain.audit_errors import AuditFeedMalformed
from services.gateway.domain.tenant import TENANT_PREFIX
from services.gateway.usecases.audit_ports import FeedPage
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import to_uuid
from services.meshkit.grpc.errors import remote_errors

if TYPE_CHECKING:
    from comitia.common.v1.audit_pb2_grpc import AuditFeedServiceAsyncStub

#: RPCs that may be sent again.
IDEMPOTENT: Final = ("/comitia.common.v1.AuditFeedService/PullAuditEntries",)
#: Largest entry that is chained, bytes of its canonical form; an export's line must hold it.
MAX_ENTRY_BYTES: Final = 64 * 1024
#: Streams that a service may have.
MAX_STREAMS: Final = 64
_PULL_SECONDS: Final = 10.0
#: Entries that are hashed before others get their turn on the loop; about 2 ms.
_BREATH: Final = 100


class GrpcAuditFeed:
    """Implements `usecases.audit_ports.AuditFeed`."""

    def __init__(self, name: str, channel: grpc.aio.Channel) -> None:
        self._name = name
        self._stub: AuditFeedServiceAsyncStub = AuditFeedServiceStub(channel)

    @property
    def name(self) -> str:
        """See `AuditFeed.name`."""
        return self._name

    async def pull(self, after: Mapping[int, int], *, most: int) -> FeedPage:
        """See `AuditFeed.pull`."""
        request = audit_pb2.PullAuditEntriesRequest(
            cursors=[
                audit_pb2.PullAuditEntriesRequest.Cursor(stream=stream, position=position)
                for stream, position in after.items()
            ],
            page_size=most,
        )
        with remote_errors():
            answer = await self._stub.PullAuditEntries(request, timeout=_PULL_SECONDS)
        streams: dict[int, list[FedEntry]] = defaultdict(list)
        for number, entry in enumerate(answer.entries, start=1):
            streams[entry.stream].append(self._read(entry))
            if not number % _BREATH:
                await asyncio.sleep(0)
        return FeedPage(streams=streams, more=answer.more)

    def _read(self, entry: audit_pb2.AuditEntry) -> FedEntry:
        """Raises: AuditFeedMalformed: a service speaks for itself only, and names tenant, place and time."""
        if entry.service != self._name:
            raise AuditFeedMalformed(self._name, f"an entry says that {entry.service!r} wrote it")
        if entry.position < 1 or not 0 <= entry.stream < MAX_STREAMS or not entry.HasField("record_time"):
            raise AuditFeedMalformed(self._name, "an entry lacks its place or time")
        try:
            tenant = TenantId(to_uuid(entry.tenant_id, TENANT_PREFIX))
            recorded = entry.record_time.ToDatetime(tzinfo=UTC)
        except (Invalid, ValueError, OverflowError) as error:
            raise AuditFeedMalformed(self._name, "an entry names no tenant or no time") from error
        canonical = canonical_entry(entry)
        if len(canonical) > MAX_ENTRY_BYTES:
            raise AuditFeedMalformed(self._name, f"an entry is longer than {MAX_ENTRY_BYTES} bytes")
        return FedEntry(
            stream=entry.stream,
            position=entry.position,
            tenant=tenant,
            record_time=recorded,
            actor=entry.actor,
            action=entry.action,
            target=entry.target,
            canonical=canonical,
            leaf_hash=merkle.leaf_hash(canonical),
        )
