"""Reads and tidies the audit entries of a service, and adds those of refused calls."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.core.audit import AuditDraft
from services.meshkit.core.errors import Internal
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.audit import KEEP, STREAMS, AuditOutcome, adding
from services.meshkit.sql.one_trip import OneTrip, one_trip
from services.meshkit.sql.scope import driver_scope

#: Entries behind a position of each stream, the nearest first. Stands in the `ONE_TRIPS` of each service: the gateways
#: ask every second, and nearly always in vain.
AUDIT_PAGE: Final = OneTrip(
    name="audit_page",
    planned_once=True,
    arguments=("smallint[]", "bigint[]", "integer"),
    returns="""TABLE (
        stream smallint, "position" bigint, record_time timestamptz, tenant_id uuid, actor text, peer text, action text,
        method text, target text, outcome smallint, reason text, request_hash bytea, request_id text,
        correlation_id text, source_address text, details text)""",
    body="""
        RETURN QUERY SELECT entry.stream, entry.position, entry.record_time, entry.tenant_id, entry.actor, entry.peer,
            entry.action, entry.method, entry.target, entry.outcome, entry.reason, entry.request_hash, entry.request_id,
            entry.correlation_id, entry.source_address, entry.details::text
        FROM unnest($1, $2) AS known (stream, position), LATERAL (
            SELECT * FROM audit_entry AS e WHERE e.stream = known.stream AND e.position > known.position
            ORDER BY e.position LIMIT $3) AS entry
        ORDER BY entry.position - known.position, entry.stream LIMIT $3;""",
)
_FORGET: Final = """
    DELETE FROM audit_entry WHERE ctid = ANY(ARRAY(
        SELECT e.ctid FROM unnest($1::smallint[], $2::bigint[]) AS known (stream, position)
        JOIN audit_entry AS e ON e.stream = known.stream AND e.position < known.position
        WHERE e.record_time < now() - $4::interval LIMIT $3))"""

#: A refused call and the reason of its refusal.
Refused = tuple[AuditDraft, str]


class SqlAuditStore:
    """The audit entries of one service.

    Args:
        app: engine of the `app` role, which adds.
        maintenance: engine of the `maintenance` role, which reads those of all tenants and deletes old ones.
    """

    def __init__(self, *, app: AsyncEngine, maintenance: AsyncEngine) -> None:
        self._app = app
        self._maintenance = maintenance

    async def add_refused(self, batch: Sequence[Refused]) -> None:
        """Adds entries of refused calls, in one transaction. Raises: Unavailable, DatabaseBusy."""
        async with driver_scope(self._app, {_tenant_of(draft) for draft, _ in batch}) as scope:
            await scope.driver.execute(";".join(adding(draft, AuditOutcome.REFUSED, reason) for draft, reason in batch))
            await scope.commit()

    async def after(self, known: Mapping[int, int], *, most: int) -> Sequence[Mapping[str, Any]]:
        """Reads entries behind these positions, each stream in order, the streams taking turns.

        Args:
            known: last known position by stream; a stream that is not named begins at its first entry.
        """
        places = {stream: known.get(stream, 0) for stream in range(STREAMS)}
        rows = await one_trip(self._maintenance, None, AUDIT_PAGE, list(places), list(places.values()), most)
        return [{**row, "details": json.loads(row["details"])} for row in rows]

    async def forget(self, known: Mapping[int, int], *, most: int) -> int:
        """Deletes entries before these positions that are older than a week; returns how many."""
        async with driver_scope(self._maintenance, None) as scope:
            done = await scope.driver.execute(_FORGET, list(known), list(known.values()), most, KEEP)
            await scope.commit()
        return int(done.rpartition(" ")[2])


def _tenant_of(draft: AuditDraft) -> TenantId:
    if draft.tenant is None:
        raise Internal("a refusal without tenant cannot be recorded", method=draft.method)
    return draft.tenant
