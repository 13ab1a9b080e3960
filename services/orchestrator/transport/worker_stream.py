"""The two directions of one worker's stream, its own or that of a replica which lends it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any, Final, Generic, TypeVar

from comitia.orchestrator.v1 import worker_loan_service_pb2, worker_service_pb2
from services.meshkit.core.failpoints import failpoint
from services.orchestrator.domain.errors import WorkerMalformed
from services.orchestrator.engine.leases import Desk
from services.orchestrator.engine.step_pools import StepPools
from services.orchestrator.transport import worker_messages

#: Time to say who works, seconds.
_HELLO_SECONDS: Final = 10.0
#: Refusals that a worker has not read, before nothing more is read of it.
_MOST_UNTOLD: Final = 1_000

Request = TypeVar("Request", worker_service_pb2.WorkRequest, worker_loan_service_pb2.LendWorkerRequest)


class WorkerStream(Generic[Request]):
    """Reads what is said, and gives what is to be told, frame by frame."""

    def __init__(self, pools: StepPools, requests: AsyncIterator[Request]) -> None:
        self._pools = pools
        self._requests = requests
        self._news = asyncio.Event()
        self._told = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.wake = self._news.set

    async def first(self) -> Request | None:
        """Reads the first message; None when there is none, or not soon."""
        try:
            async with asyncio.timeout(_HELLO_SECONDS):
                return await anext(self._requests, None)
        except TimeoutError:
            return None

    async def frames(self, desk: Desk, *beside: Callable[[], Coroutine[Any, Any, None]]) -> AsyncGenerator[bytes]:
        """Gives what the worker is to be told, until it has said all or has nothing left to do.

        Args:
            beside: run meanwhile; the end of one is the stream's end.
        Raises: Invalid, WorkerMalformed, what the bytes of a message are refused for, and what `beside` raise.
        """
        self._tasks = tasks = [asyncio.create_task(work()) for work in (partial(self._read, desk), *beside)]
        for task in tasks:
            task.add_done_callback(lambda _: self._news.set())
        while not any(task.done() for task in tasks) and (not desk.finished or self._news.is_set()):
            await self._news.wait()
            self._news.clear()
            await failpoint("orchestrator.before_lease")
            for frame in self._pools.frames(desk):
                yield frame
            self._told.set()
        for task in tasks:
            if task.done():
                task.result()

    async def close(self) -> None:
        """Ends the reading."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _read(self, desk: Desk) -> None:
        async for request in self._requests:
            match request.WhichOneof("message"):
                case "outcomes":
                    worker_messages.check_outcomes(request.outcomes)
                    self._pools.outcomes(desk, request.outcomes.outcomes)
                    await failpoint("orchestrator.after_outcome")
                case "heartbeats":
                    worker_messages.check_heartbeats(request.heartbeats)
                    self._pools.heard(desk, request.heartbeats.lease_ids)
                case "credits":
                    self._pools.add_credits(desk, worker_messages.credits_of(request.credits, desk))
                case "draining":
                    self._pools.drain(desk)
                case "lost":
                    self._pools.gone(desk)
                case "hello" | "worker":
                    raise WorkerMalformed(
                        "a stream begins with `hello` and has no other; open a stream for each worker"
                    )
                case _:
                    raise WorkerMalformed("a message holds one of hello, credits, outcomes, heartbeats and draining")
            while desk.untold > _MOST_UNTOLD:
                self._told.clear()
                await self._told.wait()
            if desk.finished:
                self._news.set()
