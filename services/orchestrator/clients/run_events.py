"""Events of runs on JetStream, for programs beside the mesh. Best effort: nothing waits for them, and some may be lost.

commit ─▶ queue (bounded, the oldest goes first) ─▶ one message an event, one answer a batch ─▶ stream
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, Protocol

from comitia.orchestrator.v1.run_event_pb2 import RunEvent
from comitia_sdk.record.run_event import envelope_sha256
from services.meshkit.bus.bus import Bus, Outgoing
from services.meshkit.bus.subjects import StreamSpec, event_subject, service_stream
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import ErrorKind, MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.core.tenant import ErasureAction, ErasureStep
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger
from services.orchestrator.engine.run import RunWrite
from services.orchestrator.engine.run_events import KINDS, events_of

log = logger(__name__)

#: Keeps the events of all runs for a week.
STREAM: Final[StreamSpec] = service_stream("orchestrator")
_SUBJECTS: Final = {kind: event_subject("orchestrator", "run", kind) for kind in KINDS}
_QUEUE: Final = "orchestrator.run_events"
#: Events that wait while NATS is away or slow: about 5 MB.
_MOST_WAITING: Final = 10_000
_AT_ONCE: Final = 256
_RETRY_SECONDS: Final = 1.0
#: How long a replica that stops goes on publishing what it recorded.
_LAST_SECONDS: Final = 2.0


class Publisher(Protocol):
    """Puts messages on a stream; `meshkit.bus.Bus` is one."""

    async def publish_all(self, messages: Sequence[Outgoing]) -> None:
        """See `Bus.publish_all`."""
        ...


class NatsRunEvents:
    """Implements `engine.ports.RunEvents`. Opened by `run_events`."""

    def __init__(self, bus: Publisher, *, clock: Clock, most: int = _MOST_WAITING) -> None:
        self._bus = bus
        self._clock = clock
        self._most = most
        self._waiting: deque[tuple[TenantId, RunEvent]] = deque()
        self._arrived = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._refused = metrics.QUEUE_REFUSED.labels(_QUEUE)
        metrics.QUEUE_ITEMS.labels(_QUEUE).set_function(self._waiting.__len__)

    def recorded(self, write: RunWrite) -> None:
        """See `RunEvents.recorded`."""
        for event in events_of(write):
            if len(self._waiting) >= self._most:
                self._waiting.popleft()
                self._refused.inc()
            self._waiting.append((write.run.tenant, event))
        if self._waiting:
            self._empty.clear()
            self._arrived.set()

    async def publish(self) -> None:
        """Publishes what comes, until cancelled. Run by `run_events`."""
        while True:
            self._arrived.clear()
            while self._waiting:
                if not await self._publish_some():
                    await self._clock.sleep(_RETRY_SECONDS)
            self._empty.set()
            await self._arrived.wait()

    async def finish(self) -> None:
        """Waits until everything was published, not for long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_SECONDS):
                await self._empty.wait()
        self._refused.inc(len(self._waiting))

    async def _publish_some(self) -> bool:
        """Publishes the oldest; False when NATS is away. What is sent stays in the queue until it is taken."""
        sent = [self._waiting[place] for place in range(min(len(self._waiting), _AT_ONCE))]
        try:
            await self._bus.publish_all([_message(tenant, event) for tenant, event in sent])
        except MeshError as error:
            if error.kind is ErrorKind.UNAVAILABLE:
                return False
            log.error("events of runs cannot be published", events=len(sent), cause=error.message)
            self._refused.inc(len(sent))
        # A full queue may have dropped some of them meanwhile.
        taken = {event.event_id for _, event in sent}
        while self._waiting and self._waiting[0][1].event_id in taken:
            self._waiting.popleft()
        return True


class EraseRunEvents:
    """Removes the events of a tenant. Implements `tenant_data.servicer.OtherStore`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def plan(self, tenant: TenantId) -> ErasureStep:
        """See `OtherStore.plan`."""
        return _step(await self._bus.count(STREAM, _all_of(tenant)))

    async def erase(self, tenant: TenantId) -> ErasureStep:
        """See `OtherStore.erase`."""
        count = await self._bus.count(STREAM, _all_of(tenant))
        if count:
            await self._bus.purge(STREAM, _all_of(tenant))
        return _step(count)


@asynccontextmanager
async def run_events(bus: Bus, *, clock: Clock) -> AsyncGenerator[NatsRunEvents]:
    """Publishes events while the block runs, and what is left of them at its end."""
    events = NatsRunEvents(bus, clock=clock)
    publishing = asyncio.create_task(events.publish(), name="run-events")
    try:
        yield events
    finally:
        await events.finish()
        publishing.cancel()
        await asyncio.wait([publishing])


def _message(tenant: TenantId, event: RunEvent) -> Outgoing:
    event.envelope_sha256 = envelope_sha256(event)
    return Outgoing(subject=f"{_SUBJECTS[event.kind]}.{tenant}", body=event.SerializeToString(), msg_id=event.event_id)


def _step(count: int) -> ErasureStep:
    return ErasureStep(service="orchestrator", store="run events", action=ErasureAction.DELETE, count=count)


def _all_of(tenant: TenantId) -> str:
    return f"comitia.orchestrator.run.*.v1.{tenant}"
