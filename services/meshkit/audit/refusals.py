"""Records control-plane calls that were refused, so that a flood of them cannot take the database down."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import takewhile
from types import TracebackType
from typing import Final, Self

from services.meshkit.batching.group_commit import GroupCommit
from services.meshkit.core.audit import AuditDraft
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.sql.audit_store import Refused, SqlAuditStore
from services.meshkit.telemetry.logs import logger
from services.meshkit.telemetry.metrics import AUDIT_REFUSALS

#: Entries written in one transaction, and those that may wait for it.
_MOST_TOGETHER: Final = 100
_MOST_WAITING: Final = 1_000
#: Kinds of refusals whose repeats are counted at a time, of all tenants.
_MOST_KINDS: Final = 5_000
#: Longest time a refused caller waits for its entry, seconds.
_SECONDS: Final = 1.0
#: Repeats within this time of one another are one entry, seconds.
WINDOW_SECONDS: Final = 60.0
_LEAST_PAUSE_SECONDS: Final = 0.05

log = logger(__name__)

#: Tenant, actor, peer, method and reason: refusals that agree in all of them are of one kind.
_Kind = tuple[TenantId | None, str, str, str, str]


@dataclass(slots=True)
class _Repeats:
    """Refusals of one kind that are not on record yet."""

    #: The latest of them.
    draft: AuditDraft
    reason: str
    #: Time of the clock at which they are written.
    due: float
    since: datetime
    #: Refusals since the entry before.
    count: int = 0

    @property
    def entry(self) -> Refused:
        """The one entry that stands for all of them."""
        facts = {"repeats": str(self.count), "repeats_since": self.since.isoformat()}
        return replace(self.draft, details=facts), self.reason


class _Shares:
    """Places of which nobody takes the last: a tenant may have as many as there are free.

    So one alone gets half of them, nine a tenth each, and one more tenant always finds room.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._by_tenant = Counter[TenantId | None]()

    def enter(self, tenant: TenantId | None) -> bool:
        """Takes a place. False when the tenant has its share."""
        if self._by_tenant[tenant] >= self._most - self._taken:
            return False
        self._by_tenant[tenant] += 1
        self._taken += 1
        return True

    def leave(self, tenant: TenantId | None) -> None:
        """Gives a place back."""
        self._taken -= 1
        self._by_tenant[tenant] -= 1
        if not self._by_tenant[tenant]:
            del self._by_tenant[tenant]


class GroupedRefusals:
    """Implements `meshkit.grpc.auditing.RefusalLog`.

    The first refusal of its kind is written before its caller is answered: one transaction at a time takes all that
    came meanwhile. Repeats are counted and become one entry a minute, and so is what could not be written at once.
    """

    def __init__(self, store: SqlAuditStore, *, service: str, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._group = GroupCommit[Refused, None](
            self._write, name=f"{service}.refusals", max_items=_MOST_TOGETHER, max_waiting=_MOST_WAITING
        )
        #: In the order in which they are due.
        self._repeats: dict[_Kind, _Repeats] = {}
        self._some = asyncio.Event()
        self._shares = _Shares(_MOST_KINDS)
        self._written = AUDIT_REFUSALS.labels(service, "written")
        self._grouped = AUDIT_REFUSALS.labels(service, "grouped")
        self._late = AUDIT_REFUSALS.labels(service, "late")
        self._dropped = AUDIT_REFUSALS.labels(service, "dropped")
        self._lost = AUDIT_REFUSALS.labels(service, "lost")

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Writes what waits and what was counted, then stops."""
        await self._record(list(self._repeats.values()))
        await self._group.__aexit__(kind, error, trace)
        left = sum(repeats.count for repeats in self._repeats.values())
        if left:
            self._lost.inc(left)
            log.warning("refusals are not on record", refusals=left)

    async def add(self, draft: AuditDraft, reason: str) -> None:
        """See `RefusalLog.add`."""
        kind = (draft.tenant, draft.actor, draft.peer, draft.method, reason)
        repeats = self._repeats.get(kind)
        if repeats is not None:
            self._count(repeats, draft)
            return
        if not self._shares.enter(draft.tenant):
            self._dropped.inc()
            return
        due = self._clock.monotonic() + WINDOW_SECONDS
        repeats = self._repeats[kind] = _Repeats(draft, reason, due=due, since=self._clock.now())
        self._some.set()
        try:
            async with asyncio.timeout(_SECONDS):
                await self._group.submit((draft, reason))
        except TimeoutError:
            # It is written yet, unless the database stays away.
            self._late.inc()
        except MeshError as error:
            self._count(repeats, draft)
            log.warning("a refusal is recorded later", method=draft.method, refused=reason, why=error.message)
        else:
            self._written.inc()

    async def write_repeats(self) -> None:
        """Background work: writes what was counted when it is due, until cancelled."""
        while True:
            if not self._repeats:
                self._some.clear()
                await self._some.wait()
            next_due = next(iter(self._repeats.values())).due
            await self._clock.sleep(max(_LEAST_PAUSE_SECONDS, next_due - self._clock.monotonic()))
            await self.write_due()

    async def write_due(self) -> None:
        """Writes what is due, and forgets those kinds of which nothing came again. What fails stays for next time."""
        now = self._clock.monotonic()
        came_again: list[_Repeats] = []
        for kind, repeats in list(takewhile(lambda one: one[1].due <= now, self._repeats.items())):
            del self._repeats[kind]
            if repeats.count:
                repeats.due = now + WINDOW_SECONDS
                self._repeats[kind] = repeats
                came_again.append(repeats)
            else:
                self._shares.leave(repeats.draft.tenant)
        await self._record(came_again)

    def _count(self, repeats: _Repeats, draft: AuditDraft) -> None:
        repeats.count += 1
        repeats.draft = draft
        self._grouped.inc()

    async def _record(self, counted: Sequence[_Repeats]) -> None:
        """Writes one entry for each of those that count something."""
        full = [repeats for repeats in counted if repeats.count]
        for first in range(0, len(full), _MOST_TOGETHER):
            await asyncio.gather(*map(self._record_one, full[first : first + _MOST_TOGETHER]))

    async def _record_one(self, repeats: _Repeats) -> None:
        count, since = repeats.count, self._clock.now()
        try:
            await self._group.submit(repeats.entry)
        except MeshError as error:
            log.warning("refusals are recorded later", method=repeats.draft.method, refusals=count, why=error.message)
        else:
            repeats.count -= count
            repeats.since = since

    async def _write(self, batch: Sequence[Refused]) -> Sequence[None]:
        await self._store.add_refused(batch)
        return [None] * len(batch)
