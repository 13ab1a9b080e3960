"""Records control-plane calls that were refused, so that a flood of them cannot take the database down."""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from services.meshkit.batching.dispatcher import QueueFull
from services.meshkit.batching.group_commit import GroupCommit
from services.meshkit.core.audit import AuditDraft
from services.meshkit.core.errors import MeshError
from services.meshkit.sql.audit_store import Refused, SqlAuditStore
from services.meshkit.telemetry.logs import logger
from services.meshkit.telemetry.metrics import AUDIT_REFUSALS

#: Refusals written in one transaction, and those that may wait for it.
_MOST_TOGETHER: Final = 100
_MOST_WAITING: Final = 1_000
#: Longest time a refused caller waits for its entry, seconds.
_SECONDS: Final = 1.0

log = logger(__name__)


class GroupedRefusals:
    """Implements `meshkit.grpc.auditing.RefusalLog`: one transaction at a time writes what has come meanwhile.

    Refusals past 1,000 that wait are given up and counted: the callers are refused all the same.
    """

    def __init__(self, store: SqlAuditStore, *, service: str) -> None:
        self._store = store
        self._group = GroupCommit[Refused, None](
            self._write, name=f"{service}.refusals", max_items=_MOST_TOGETHER, max_waiting=_MOST_WAITING
        )
        self._written = AUDIT_REFUSALS.labels(service, "written")
        self._late = AUDIT_REFUSALS.labels(service, "late")
        self._dropped = AUDIT_REFUSALS.labels(service, "dropped")
        self._lost = AUDIT_REFUSALS.labels(service, "lost")

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Writes what waits, then stops."""
        await self._group.__aexit__(kind, error, trace)

    async def add(self, draft: AuditDraft, reason: str) -> None:
        """See `RefusalLog.add`."""
        try:
            async with asyncio.timeout(_SECONDS):
                await self._group.submit((draft, reason))
        except TimeoutError:
            # It is written yet, unless the database stays away.
            self._late.inc()
        except QueueFull:
            self._dropped.inc()
        except MeshError as error:
            self._lost.inc()
            log.warning("a refusal is not on record", method=draft.method, refused=reason, why=error.message)
        else:
            self._written.inc()

    async def _write(self, batch: Sequence[Refused]) -> Sequence[None]:
        await self._store.add_refused(batch)
        return [None] * len(batch)
