"""Follows a run: what is recorded, in order and from any point, and live text in between."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, Protocol

from comitia.orchestrator.v1 import journal_pb2, session_pb2, session_service_pb2
from services.meshkit.core.identity import TenantId
from services.orchestrator.engine.ports import LiveEvents
from services.orchestrator.programs.view import TERMINAL_STATES, event_of, project

#: Without any news from the bus, the journal is read this often.
_POLL_SECONDS: Final = 1.0


class JournalReader(Protocol):
    """Reads recorded facts."""

    async def entries(
        self, tenant: TenantId, run_id: str, *, after: int = 0
    ) -> Sequence[tuple[int, journal_pb2.JournalEntry]]:
        """See `RunStore.entries`."""
        ...


class RunWatch:
    """Streams the events of runs."""

    def __init__(self, *, journal: JournalReader, live: LiveEvents) -> None:
        self._journal = journal
        self._live = live

    async def events(
        self,
        tenant: TenantId,
        run_id: str,
        *,
        after: int,
        stopped: Callable[[], bool],
        begun: Callable[[], Awaitable[None]],
    ) -> AsyncGenerator[session_service_pb2.WatchSessionResponse]:
        """Gives recorded events after a sequence and live text, until the run has ended.

        Args:
            begun: called when all that was recorded has been given and the rest is awaited; each time anew.
            stopped: true once this replica stops; the stream then ends, and its client resumes at another replica.
        """
        view = session_pb2.Session()
        async with self._live.watch(tenant, run_id) as news:
            while not stopped():
                async for event in self._recorded(tenant, run_id, view):
                    if event.sequence > after:
                        yield event
                if view.state in TERMINAL_STATES:
                    return
                await begun()
                async for delta in _until_news(news, view.sequence):
                    yield delta

    async def _recorded(
        self, tenant: TenantId, run_id: str, view: session_pb2.Session
    ) -> AsyncGenerator[session_service_pb2.WatchSessionResponse]:
        """Gives the events recorded since the view, and brings the view up to them."""
        while batch := await self._journal.entries(tenant, run_id, after=view.sequence):
            for sequence, entry in batch:
                project(view, entry, sequence)
                event = event_of(view, entry, sequence)
                if event is not None:
                    yield event


async def _until_news(
    news: AsyncIterator[session_service_pb2.WatchSessionResponse], seen: int
) -> AsyncGenerator[session_service_pb2.WatchSessionResponse]:
    """Gives live text until something was recorded, or for as long as nothing at all is heard."""
    while True:
        try:
            async with asyncio.timeout(_POLL_SECONDS):
                event = await anext(news)
        except (TimeoutError, StopAsyncIteration):
            return
        if event.WhichOneof("event") is None:
            if event.sequence > seen:
                return
        else:
            yield event
