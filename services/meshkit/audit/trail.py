"""The audit entries of one service, put together. Every wiring opens it once and hands it to `mesh_guard`."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from comitia.common.v1.audit_pb2_grpc import add_AuditFeedServiceServicer_to_server
from services.meshkit.audit.feed import AuditFeed
from services.meshkit.audit.refusals import GroupedRefusals
from services.meshkit.core.clock import Clock
from services.meshkit.grpc.auditing import RefusalLog
from services.meshkit.grpc.server import Background, Registration
from services.meshkit.sql.audit_store import SqlAuditStore


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAudit:
    """What a server needs for its audit entries. A `GuardPart`."""

    refusals: RefusalLog
    registrations: Sequence[Registration]
    background: Sequence[Background]


@asynccontextmanager
async def service_audit(service: str, store: SqlAuditStore, *, clock: Clock) -> AsyncGenerator[ServiceAudit]:
    """Opens the trail of a service; leaving the block writes what waits."""
    feed = AuditFeed(store, service=service, clock=clock)
    async with GroupedRefusals(store, service=service, clock=clock) as refusals:
        yield ServiceAudit(
            refusals=refusals,
            registrations=(partial(add_AuditFeedServiceServicer_to_server, feed),),
            background=(feed.forget, refusals.write_repeats),
        )
