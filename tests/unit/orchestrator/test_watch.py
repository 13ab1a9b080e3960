"""What watchers have seen is not read again for them."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from comitia.orchestrator.v1 import journal_pb2, session_pb2
from services.meshkit.core.identity import TenantId
from services.meshkit.testing.mesh_keys import TENANT
from services.orchestrator.engine.ports import LiveEvents
from services.orchestrator.engine.watch import RunWatch, ShownSession
from services.orchestrator.programs.view import project
from tests.support.sessions import RUN_ID, World, a_start, play


class Journal:
    """Keeps the facts of a run, and after which it was read."""

    def __init__(self, entries: Sequence[journal_pb2.JournalEntry]) -> None:
        self.read: list[int] = []
        self._entries = entries

    async def entries(
        self, tenant: TenantId, run_id: str, *, after: int = 0
    ) -> Sequence[tuple[int, journal_pb2.JournalEntry]]:
        self.read.append(after)
        return list(enumerate(self._entries, 1))[after:]


class Quiet:
    """Live text that never comes."""

    @asynccontextmanager
    async def watch(self, _tenant: TenantId, _run_id: str) -> AsyncIterator[AsyncGenerator[Any]]:
        yield _nothing()


async def _nothing() -> AsyncGenerator[Any]:
    return
    yield


async def _begun() -> None:
    """Nobody counts."""


def stood_at(entries: Sequence[journal_pb2.JournalEntry], sequence: int) -> session_pb2.Session:
    session = session_pb2.Session()
    for number, entry in enumerate(entries[:sequence], 1):
        project(session, entry, number)
    return session


async def watched(journal: Journal, shown: ShownSession, *, after: int) -> list[Any]:
    watch = RunWatch(journal=journal, live=cast(LiveEvents, Quiet()))
    events = watch.events(TENANT, RUN_ID, shown, after=after, stopped=lambda: False, begun=_begun)
    return [event async for event in events]


async def test_a_watcher_who_comes_back_is_told_the_rest_and_nothing_before_it_is_read() -> None:
    entries = play(a_start(), World())
    whole = await watched(Journal(entries), ShownSession(), after=0)
    for place in range(1, len(entries)):
        journal = Journal(entries)
        told = await watched(journal, ShownSession(stood_at(entries, place)), after=place)
        assert told == [event for event in whole if event.sequence > place]
        assert min(journal.read) == place
