"""Tells inference which answers are recorded here: nobody will ask for them again, so it need not keep them for long.

Best effort: nothing waits for it, and of what is lost inference keeps the answer for longer, within a bound of its own.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from comitia.common.v1 import content_pb2
from comitia.inference.v1 import inference_service_pb2
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import ErrorKind, MeshError
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger
from services.orchestrator.clients.neighbours import Generations
from services.orchestrator.engine.run import ModelCall, OwnedRun
from services.orchestrator.worker.caller import RunTokens

log = logger(__name__)

_QUEUE: Final = "orchestrator.acknowledgements"
#: Calls of one run are gathered so long: those of a turn go together.
_GATHER_SECONDS: Final = 1.0
_SECONDS: Final = 10.0
#: Runs whose calls wait, and calls of one of them.
_MOST_RUNS: Final = 10_000
_MOST_CALLS: Final = 256
#: Runs that are told of at once.
_AT_ONCE: Final = 256
#: Failures after which it is worth trying again.
_PASSING: Final = frozenset({ErrorKind.UNAVAILABLE, ErrorKind.DEADLINE, ErrorKind.EXHAUSTED})
#: How long a replica that stops goes on telling.
_LAST_SECONDS: Final = 2.0

#: Calls of a run that wait.
_Waiting = tuple[OwnedRun, list[ModelCall]]


class Acknowledgements:
    """Gathers calls by run and sends them. Opened by `acknowledging`."""

    def __init__(self, generations: Generations, tokens: RunTokens, *, clock: Clock) -> None:
        self._generations = generations
        self._tokens = tokens
        self._clock = clock
        self._waiting: dict[str, _Waiting] = {}
        self._arrived = asyncio.Event()
        self._refused = metrics.QUEUE_REFUSED.labels(_QUEUE)
        metrics.QUEUE_ITEMS.labels(_QUEUE).set_function(lambda: len(self._waiting))

    def add(self, run: OwnedRun, calls: Sequence[ModelCall]) -> None:
        """Takes calls of models whose outcomes are recorded. Implements `engine.ports.CallsSettled`."""
        waiting = self._waiting.get(run.run_id)
        if waiting is None:
            if len(self._waiting) >= _MOST_RUNS:
                self._refused.inc(len(calls))
                return
            waiting = self._waiting[run.run_id] = run, []
            self._arrived.set()
        waiting[1].extend(calls)
        # The oldest were told before, where a run was read from its journal.
        excess = len(waiting[1]) - _MOST_CALLS
        if excess > 0:
            del waiting[1][:excess]
            self._refused.inc(excess)

    async def send(self) -> None:
        """Tells of what comes, until cancelled. Run by `acknowledging`."""
        while True:
            await self._arrived.wait()
            await self._clock.sleep(_GATHER_SECONDS)
            await self.send_waiting()

    async def send_waiting(self) -> None:
        """Tells of all that waits. What cannot be told now waits on."""
        self._arrived.clear()
        waiting, self._waiting = list(self._waiting.values()), {}
        for first in range(0, len(waiting), _AT_ONCE):
            await asyncio.gather(*(self._tell(*one) for one in waiting[first : first + _AT_ONCE]))

    async def _tell(self, run: OwnedRun, calls: list[ModelCall]) -> None:
        item = inference_service_pb2.BatchGenerateRequest.Item(acknowledged=[_call_id(run, call) for call in calls])
        try:
            principal = await self._tokens.principal(run)
            await self._generations.call(item, principal=principal, timeout_seconds=_SECONDS)
        except MeshError as error:
            log.debug("inference was not told of recorded calls", run_id=run.run_id, error=error.message)
            if error.kind in _PASSING:
                self.add(run, calls)
            else:
                self._refused.inc(len(calls))


def _call_id(run: OwnedRun, call: ModelCall) -> content_pb2.CallId:
    return content_pb2.CallId(
        run_id=run.run_id, path=call.path, attempt_group=call.attempt_group, call_index=call.call_index
    )


@asynccontextmanager
async def acknowledging(
    generations: Generations, tokens: RunTokens, *, clock: Clock
) -> AsyncGenerator[Acknowledgements]:
    """Tells inference while the block runs, and of what is left at its end, not for long."""
    acknowledgements = Acknowledgements(generations, tokens, clock=clock)
    sending = asyncio.create_task(acknowledgements.send(), name="acknowledgements")
    try:
        yield acknowledgements
    finally:
        sending.cancel()
        await asyncio.wait([sending])
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_SECONDS):
                await acknowledgements.send_waiting()
