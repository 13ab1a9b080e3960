"""A worker at work: keeps a stream open, makes what it is leased, and says how it ended."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, Final, cast

from comitia.orchestrator.v1 import worker_service_pb2 as pb
from comitia.orchestrator.v1 import worker_service_pb2_grpc
from comitia_sdk.connection import Connection, Streaming
from comitia_sdk.errors import ComitiaError, InternalFailure, LimitReached, MeshUnavailable, TimedOut, Unauthenticated
from comitia_sdk.worker.job import Job, JobKey, released
from comitia_sdk.worker.step import Hook, Step, StepDefinition
from comitia_sdk.worker.stream import WorkStream

#: Signs of life go out so many times within the time that a step names.
_BEATS: Final = 3
_LEAST_BEAT_SECONDS: Final = 0.05
#: What was held when a stream broke is let go when no stream leases it again within this time.
_HOLD_SECONDS: Final = 30.0
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 15.0
#: Time for the last outcomes to go out once the worker stops.
_LAST_WORDS_SECONDS: Final = 2.0

#: Takes `kind`, a text, the step if it is about one, and its time in seconds.
Tell = Callable[[str, str, Step | None, float], None]


class WorkSession:
    """From the first hello to the last outcome.

    Args:
        definitions: the functions, by name.
        tell: is told what happens, as it happens.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        worker: str,
        pool: str,
        concurrency: int,
        projects: Sequence[str],
        definitions: Mapping[str, StepDefinition],
        before: Sequence[Hook],
        after: Sequence[Hook],
        threads: Executor,
        tell: Tell,
    ) -> None:
        self._connection = connection
        self._stub = worker_service_pb2_grpc.WorkerServiceStub(connection.channel)
        self._worker = worker
        self._pool = pool
        self._concurrency = concurrency
        self._projects = projects
        self._definitions = definitions
        self._make = partial(Job.make, before=before, after=after, threads=threads)
        self._tell = tell
        self._places = asyncio.Semaphore(concurrency)
        self._jobs: dict[JobKey, Job] = {}
        #: Where each is to be answered: stream and lease. None of them while no stream has it.
        self._leases: dict[JobKey, tuple[WorkStream, int]] = {}
        #: Ends what no stream leases again.
        self._letting_go: dict[JobKey, asyncio.TimerHandle] = {}
        self._streams: set[WorkStream] = set()
        self._current: WorkStream | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._beats: dict[JobKey, asyncio.TimerHandle] = {}
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    async def work(self, stop: asyncio.Event, *, grace: float) -> None:
        """Works until told to stop; then finishes what it has within `grace` seconds, and gives the rest back.

        Raises: ComitiaError: the mesh refuses this worker for good.
        """
        keeping = asyncio.create_task(self._keep_connected(), name="worker-streams")
        stopping = asyncio.create_task(stop.wait(), name="worker-stop")
        try:
            await asyncio.wait((keeping, stopping), return_when=asyncio.FIRST_COMPLETED)
            if keeping.done():
                keeping.result()
            await self._drain(grace)
        finally:
            for task in (keeping, stopping):
                task.cancel()
            for timer in (*self._beats.values(), *self._letting_go.values()):
                timer.cancel()
            for job in self._jobs.values():
                job.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(keeping, stopping, *self._tasks, return_exceptions=True)

    # Streams.

    async def _keep_connected(self) -> None:
        """Keeps a stream open that gives leases. Raises: ComitiaError."""
        pause = _FIRST_PAUSE
        while not self._stopping.is_set():
            stream = self._new_stream()
            reading = self._spawn(self._follow(stream))
            draining = asyncio.create_task(stream.draining.wait())
            try:
                await asyncio.wait((reading, draining), return_when=asyncio.FIRST_COMPLETED)
            finally:
                draining.cancel()
            if not reading.done():
                continue  # it gives no more, and is read until all that it gave is answered
            failure = reading.exception()
            if failure is not None and not _may_pass(failure, stream):
                raise failure
            pause = _FIRST_PAUSE if stream.well else min(_LONGEST_PAUSE, pause * 2)
            wait = pause * random.uniform(0.5, 1.0)
            if isinstance(failure, ComitiaError) and failure.retry_after is not None:
                wait = max(wait, failure.retry_after.total_seconds())
            said = failure.message if isinstance(failure, ComitiaError) else "the stream ended"
            self._tell("disconnected", f"{said}; trying again in {wait:.1f} s", None, wait)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._stopping.wait()

    def _new_stream(self) -> WorkStream:
        elsewhere = sum(len(stream.jobs) for stream in self._streams)
        room = max(1, self._concurrency - elsewhere)
        held = [job for key, job in self._jobs.items() if key not in self._leases][:room]
        hello = pb.WorkerHello(
            worker=self._worker,
            pool=self._pool,
            steps=sorted(self._definitions),
            credits=room,
            held=map(_held, held),
            projects=self._projects,
        )
        self._current = stream = WorkStream(hello)
        self._streams.add(stream)
        return stream

    async def _follow(self, stream: WorkStream) -> None:
        """Does what a stream says until it ends. Raises: ComitiaError."""
        work = cast("Streaming[WorkStream, pb.WorkResponse]", self._stub.Work)
        try:
            opened = partial(self._opened, stream)
            async with aclosing(self._connection.stream(work, stream, opened=opened)) as told:
                async for response in told:
                    self._take(stream, response)
        finally:
            stream.end()
            self._broke(stream)

    def _opened(self, stream: WorkStream) -> None:
        stream.well = True
        self._tell("connected", self._connection.url, None, 0.0)

    def _broke(self, stream: WorkStream) -> None:
        """Keeps what a stream had, for the next one."""
        self._streams.discard(stream)
        loop = asyncio.get_running_loop()
        for lease_id, job in stream.jobs.items():
            if self._leases.get(job.key) == (stream, lease_id):
                del self._leases[job.key]
                self._letting_go[job.key] = loop.call_later(_HOLD_SECONDS, self._let_go, job)
        stream.jobs.clear()

    def _let_go(self, job: Job) -> None:
        """Nobody has asked for it again: somebody else makes it, or nobody needs it."""
        self._letting_go.pop(job.key, None)
        if job.outcome is None:
            job.cancel()
        else:
            self._forget(job)

    # What the mesh says.

    def _take(self, stream: WorkStream, response: pb.WorkResponse) -> None:
        for lease in response.leases:
            self._leased(stream, lease)
        for lease_id in response.revoked_lease_ids:
            job = stream.jobs.get(lease_id)
            if job is not None:
                self._tell("revoked", "nobody waits for it any more", job.step, 0.0)
                job.cancel()
        for refused in response.refused:
            self._tell("refused", f"an outcome changed nothing: {refused.reason}", None, 0.0)
        if response.draining:
            stream.draining.set()

    def _leased(self, stream: WorkStream, lease: pb.Lease) -> None:
        definition = self._definitions.get(lease.name)
        key = (lease.run_id, lease.path, lease.attempt)
        job = self._jobs.get(key)
        if definition is None or (job is None and self._stopping.is_set()):
            stream.answer(lease.lease_id, released(0.0))
            return
        if job is not None:
            # What is at work already, or done, is not begun again.
            self._take_up(job, stream, lease.lease_id)
            return
        job = self._jobs[key] = Job(lease, definition)
        self._idle.clear()
        self._take_up(job, stream, lease.lease_id)
        job.task = self._spawn(self._run(job))
        if job.heartbeat:
            self._beat(job)

    def _take_up(self, job: Job, stream: WorkStream, lease_id: int) -> None:
        if timer := self._letting_go.pop(job.key, None):
            timer.cancel()
        if earlier := self._leases.get(job.key):
            earlier[0].jobs.pop(earlier[1], None)
        self._leases[job.key] = (stream, lease_id)
        stream.jobs[lease_id] = job
        if job.outcome is not None:
            self._answer(job)

    # What comes of it.

    async def _run(self, job: Job) -> None:
        try:
            async with self._places:
                self._tell("began", "", job.step, 0.0)
                await self._make(job)
        finally:
            job.outcome = job.outcome or released(0.0)
            self._tell(*_ending(job))
            if job.key in self._leases:
                self._answer(job)
            elif job.key not in self._letting_go:
                self._forget(job)

    def _answer(self, job: Job) -> None:
        stream, lease_id = self._leases[job.key]
        if job.outcome is not None:
            stream.answer(lease_id, job.outcome)
        self._forget(job)
        current = self._current
        if current is None or current is stream or current not in self._streams or current.draining.is_set():
            return
        if current.given < self._concurrency:
            current.add_credit()

    def _forget(self, job: Job) -> None:
        self._jobs.pop(job.key, None)
        self._leases.pop(job.key, None)
        for kept in (self._letting_go, self._beats):
            if timer := kept.pop(job.key, None):
                timer.cancel()
        if not self._jobs:
            self._idle.set()

    def _beat(self, job: Job) -> None:
        if job.outcome is None and (place := self._leases.get(job.key)):
            place[0].beat([place[1]])
        seconds = max(_LEAST_BEAT_SECONDS, job.heartbeat / _BEATS)
        self._beats[job.key] = asyncio.get_running_loop().call_later(seconds, self._beat, job)

    # The end.

    async def _drain(self, grace: float) -> None:
        self._stopping.set()
        for stream in self._streams:
            stream.drain()
        self._tell("draining", f"{len(self._jobs)} steps at work", None, 0.0)
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._idle.wait()
        for job in list(self._jobs.values()):
            job.cancel()
            if job.key in self._leases and not job.definition.is_async:
                # Its thread cannot be stopped. The step is given to somebody who has time for it.
                job.outcome = released(0.0)
                self._answer(job)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
                await self._idle.wait()
                for stream in list(self._streams):
                    stream.end()
                while self._streams:
                    await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits for it has it too; a stream that was left to end may break


def _held(job: Job) -> pb.HeldStep:
    run_id, path, attempt = job.key
    return pb.HeldStep(run_id=run_id, path=path, attempt=attempt)


def _ending(job: Job) -> tuple[str, str, Step, float]:
    seconds = time.monotonic() - job.began
    outcome = job.outcome or released(0.0)
    match outcome.WhichOneof("result"):
        case "output":
            return "done", "", job.step, seconds
        case "failure":
            failure = outcome.failure
            lasting = ", for good" if failure.permanent else ""
            return "failed", f"{failure.reason}{lasting}: {failure.message}", job.step, seconds
        case _:
            return "given back", "", job.step, seconds


def _may_pass(error: BaseException, stream: WorkStream) -> bool:
    """Tells whether another try may go well."""
    if isinstance(error, Unauthenticated):
        return stream.well  # the token ended in the middle; a new one is asked for
    return isinstance(error, MeshUnavailable | TimedOut | LimitReached | InternalFailure)
