"""Brings in what all services wrote."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from services.gateway.domain.audit_entry import FedEntry
from services.gateway.domain.audit_health import AuditHealth
from services.gateway.domain.audit_stream import BreakKind, Cursor, Followed, StreamBreak, follow, step_over
from services.gateway.usecases.audit_ports import Advance, AuditFeed, AuditIntake, FeedPage
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.telemetry.logs import logger
from services.meshkit.telemetry.metrics import AUDIT_BREAKS, AUDIT_ENTRIES, AUDIT_FEED_AWAY, AUDIT_GAPS, AUDIT_LAG

#: Entries asked for at once. Few, because reading them holds up everything else in the process for a moment.
PAGE_SIZE: Final = 500
#: A stream that nothing is known of yet.
_UNKNOWN: Final = Cursor()

log = logger(__name__)


class CollectAudit:
    """One round: every service is asked at once, and what came is chained service by service.

    A break is believed when it is seen twice in a row: it stays on record for good, so it had better be there.
    """

    def __init__(self, feeds: Sequence[AuditFeed], *, intake: AuditIntake, health: AuditHealth, clock: Clock) -> None:
        self._feeds = tuple(feeds)
        self._intake = intake
        self._health = health
        self._clock = clock
        self._suspected: dict[str, frozenset[StreamBreak]] = {}
        health.asked.update(dict.fromkeys((feed.name for feed in feeds), None))

    async def __call__(self) -> bool:
        """Returns: True when a service has more.

        Raises: MeshError: the database is away. Nothing is lost: the next round begins where this one did.
        """
        known = await self._intake.cursors()
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(self._pull(feed, known.get(feed.name, {}))) for feed in self._feeds]
        more = False
        for feed, task in zip(self._feeds, asked, strict=True):
            page = task.result()
            if page is not None:
                await self._take(feed.name, known.get(feed.name, {}), page)
                more = more or page.more
        await self._show_open()
        return more

    async def _show_open(self) -> None:
        """Has the page of metrics show what is an alarm; other gateways notice and acknowledge too."""
        found = await self._intake.open_breaks()
        for feed in self._feeds:
            AUDIT_GAPS.labels(feed.name).set(found.get(feed.name, 0))

    async def _pull(self, feed: AuditFeed, cursors: Mapping[int, Cursor]) -> FeedPage | None:
        try:
            page = await feed.pull({stream: one.ask_after for stream, one in cursors.items()}, most=PAGE_SIZE)
        except MeshError as error:
            self._note_away(feed.name, error)
            return None
        return page

    async def _take(self, service: str, cursors: Mapping[int, Cursor], page: FeedPage) -> None:
        try:
            followed = self._follow(service, cursors, page)
        except MeshError as error:
            self._note_away(service, error)
            return
        self._note_here(service)
        advances = [
            Advance(
                stream=stream,
                seen=cursors.get(stream, _UNKNOWN),
                cursor=one.cursor,
                fresh=one.fresh,
                found=one.found,
            )
            for stream, one in followed.items()
            if one.fresh or one.found or one.cursor != cursors.get(stream, _UNKNOWN)
        ]
        if not advances:
            return
        now = self._clock.now()
        AUDIT_ENTRIES.labels(service).inc(await self._intake.take(service, advances, now=now))
        oldest = min((entry.record_time for one in advances for entry in one.fresh), default=None)
        if oldest is not None:
            AUDIT_LAG.labels(service).observe(max(0.0, (now - oldest).total_seconds()))
        for advance in advances:
            if advance.found is not None:
                _alarm(advance.found)

    def _follow(self, service: str, cursors: Mapping[int, Cursor], page: FeedPage) -> dict[int, Followed]:
        suspected = self._suspected.get(service, frozenset())
        breaks: set[StreamBreak] = set()
        followed: dict[int, Followed] = {}
        for stream in sorted({*cursors, *page.streams}):
            entries, cursor = page.streams.get(stream, ()), cursors.get(stream, _UNKNOWN)
            one = follow(service, stream, cursor, entries, last=not page.more)
            if one.found is not None:
                breaks.add(one.found)
                one = _judged(one, cursor, entries, believed=one.found in suspected)
            followed[stream] = one
        self._suspected[service] = frozenset(breaks)
        return followed

    def _note_here(self, service: str) -> None:
        self._health.asked[service] = self._clock.monotonic()
        AUDIT_FEED_AWAY.labels(service).set(0)
        if self._health.away.pop(service, None) is not None:
            log.info("audit entries of a service arrive again", of=service)

    def _note_away(self, service: str, error: MeshError) -> None:
        AUDIT_FEED_AWAY.labels(service).set(1)
        if service not in self._health.away:
            log.warning("audit entries of a service do not arrive", of=service, reason=error.reason, why=error.message)
        self._health.away[service] = error.message


def _judged(one: Followed, cursor: Cursor, entries: Sequence[FedEntry], *, believed: bool) -> Followed:
    """Goes on over a break that is believed, and stops in front of one that is to be looked at once more."""
    assert one.found is not None
    gap = one.found.kind is BreakKind.GAP
    if believed:
        return step_over(one, entries) if gap else one
    return Followed(fresh=one.fresh, cursor=one.cursor if gap else cursor)


def _alarm(found: StreamBreak) -> None:
    AUDIT_BREAKS.labels(found.service, found.kind.value).inc()
    log.error(
        "audit entries of a service are missing",
        of=found.service,
        stream=found.stream,
        position=found.position,
        kind=found.kind.value,
    )
