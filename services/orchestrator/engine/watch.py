"""Follows a run: what is recorded, in order and from any point, and live text in between."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar

from comitia.orchestrator.v1 import journal_pb2, run_pb2, run_service_pb2, session_pb2, session_service_pb2
from services.meshkit.core.identity import TenantId
from services.orchestrator.engine.ports import LiveEvents
from services.orchestrator.engine.session_as_run import as_run
from services.orchestrator.programs.run_view import TERMINAL_STATES, RunProjection
from services.orchestrator.programs.view import event_of, project

#: Without any news from the bus, the journal is read this often.
_POLL_SECONDS: Final = 1.0

#: What a watcher gets.
Event = TypeVar("Event", session_service_pb2.WatchSessionResponse, run_service_pb2.WatchRunResponse)
Event_co = TypeVar("Event_co", covariant=True)


class JournalReader(Protocol):
    """Reads recorded facts."""

    async def entries(
        self, tenant: TenantId, run_id: str, *, after: int = 0
    ) -> Sequence[tuple[int, journal_pb2.JournalEntry]]:
        """See `Journal.entries`."""
        ...


class Shown(Protocol[Event_co]):
    """What one watcher has seen of a run, brought up fact by fact."""

    @property
    def sequence(self) -> int:
        """Of the last fact that it took."""
        ...

    @property
    def ended(self) -> bool:
        """True once the run has its final state."""
        ...

    def take(self, entry: journal_pb2.JournalEntry, sequence: int) -> Event_co | None:
        """Takes the next fact; gives it as an event, None when it is none of the callers' business."""
        ...

    def live(self, event: session_service_pb2.WatchSessionResponse) -> Event_co | None:
        """Gives live text as an event, None to a watcher who did not ask for any."""
        ...


class ShownSession:
    """Implements `Shown` for SessionService.WatchSession.

    Args:
        seen: the session as the watcher has seen it at least; None for one who is to be told everything.
    """

    def __init__(self, seen: session_pb2.Session | None = None) -> None:
        self._session = session_pb2.Session()
        if seen is not None:
            self._session.CopyFrom(seen)

    @property
    def sequence(self) -> int:
        """See `Shown.sequence`."""
        return self._session.sequence

    @property
    def ended(self) -> bool:
        """See `Shown.ended`."""
        return self._session.state in TERMINAL_STATES

    def take(self, entry: journal_pb2.JournalEntry, sequence: int) -> session_service_pb2.WatchSessionResponse | None:
        """See `Shown.take`."""
        project(self._session, entry, sequence)
        return event_of(self._session, entry, sequence)

    def live(self, event: session_service_pb2.WatchSessionResponse) -> session_service_pb2.WatchSessionResponse | None:
        """See `Shown.live`."""
        return event


class ShownRun:
    """Implements `Shown` for RunService.WatchRun, of a session too."""

    def __init__(self, *, include_deltas: bool) -> None:
        self._include_deltas = include_deltas
        self._projection = RunProjection()
        #: Kept up for a session only: what callers see of it as a run is made from it.
        self._session: session_pb2.Session | None = None
        self._shown: run_pb2.RunState.ValueType = run_pb2.RUN_STATE_UNSPECIFIED
        self.sequence = 0

    @property
    def ended(self) -> bool:
        """See `Shown.ended`."""
        return self._projection.state in TERMINAL_STATES

    def take(self, entry: journal_pb2.JournalEntry, sequence: int) -> run_service_pb2.WatchRunResponse | None:
        """See `Shown.take`."""
        self.sequence = sequence
        if entry.HasField("run_started") and not entry.run_started.HasField("run"):
            self._session = session_pb2.Session()
        if self._session is not None:
            project(self._session, entry, sequence)
        seen = self._projection.take(entry, sequence)
        state = self._projection.state
        if seen is None and state == self._shown:
            return None
        event = run_service_pb2.WatchRunResponse(sequence=sequence, event_time=entry.record_time)
        if state != self._shown:
            self._shown = state
            event.run.CopyFrom(self._projection.run if self._session is None else as_run(self._session))
        if seen is not None:
            event.step.CopyFrom(self._projection.step(seen))
            if entry.step_completed.HasField("turn"):
                event.turn.CopyFrom(entry.step_completed.turn)
        return event

    def live(self, event: session_service_pb2.WatchSessionResponse) -> run_service_pb2.WatchRunResponse | None:
        """See `Shown.live`."""
        if not self._include_deltas:
            return None
        return run_service_pb2.WatchRunResponse(
            sequence=self.sequence, event_time=event.event_time, text_delta=event.text_delta
        )


class RunWatch:
    """Streams the events of runs."""

    def __init__(self, *, journal: JournalReader, live: LiveEvents) -> None:
        self._journal = journal
        self._live = live

    async def events(
        self,
        tenant: TenantId,
        run_id: str,
        shown: Shown[Event],
        *,
        after: int,
        stopped: Callable[[], bool],
        begun: Callable[[], Awaitable[None]],
    ) -> AsyncGenerator[Event]:
        """Gives recorded events after a sequence and live text, until the run has ended.

        Args:
            shown: what the watcher has seen; what was recorded before is not read.
            begun: called when all that was recorded has been given and the rest is awaited; each time anew.
            stopped: true once this replica stops; the stream then ends, and its client resumes at another replica.
        """
        async with self._live.watch(tenant, run_id) as news:
            while not stopped():
                async for event in self._recorded(tenant, run_id, shown):
                    if event.sequence > after:
                        yield event
                if shown.ended:
                    return
                await begun()
                async for piece in _until_news(news, shown.sequence):
                    delta = shown.live(piece)
                    if delta is not None:
                        yield delta

    async def _recorded(self, tenant: TenantId, run_id: str, shown: Shown[Event]) -> AsyncGenerator[Event]:
        """Gives the events recorded since, and brings what was shown up to them."""
        while batch := await self._journal.entries(tenant, run_id, after=shown.sequence):
            for sequence, entry in batch:
                event = shown.take(entry, sequence)
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
