"""One attempt of a step at work: calls the function, and says how it ended."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration

from comitia.orchestrator.v1 import worker_service_pb2 as pb
from comitia_sdk.worker.step import GiveBack, Hook, Step, StepCancelled, StepDefinition, StepFailed
from comitia_sdk.worker.values import MAX_OUTPUT_BYTES, NotJson, from_value, to_value

#: `run_id`, `path`, `attempt`: what is the same when a lease comes again.
JobKey = tuple[str, str, int]

_MAX_MESSAGE: Final = 4_000
log: Final = logging.getLogger("comitia.worker")


class Job:
    """Runs at most once, however often it is leased anew."""

    def __init__(self, lease: pb.Lease, definition: StepDefinition) -> None:
        self.key: JobKey = (lease.run_id, lease.path, lease.attempt)
        self.step = Step(lease)
        self.definition = definition
        self.input = lease.input
        #: Seconds between two signs of life; 0 when none are asked for.
        self.heartbeat = lease.heartbeat.seconds + lease.heartbeat.nanos / 1e9
        self.task: asyncio.Task[None] | None = None
        #: How it ended; None while it is at work.
        self.outcome: pb.StepOutcome | None = None
        self.began = time.monotonic()

    def cancel(self) -> None:
        """Stops the function, or tells it to stop."""
        self.step.cancel()
        if self.task is not None and self.definition.is_async:
            self.task.cancel()

    async def make(self, *, before: Sequence[Hook], after: Sequence[Hook], threads: Executor) -> None:
        """Makes the step. Whatever comes of it is its outcome."""
        self.began = time.monotonic()
        try:
            self.outcome = await self._made(before, after, threads)
        except asyncio.CancelledError:
            if not self.step.cancelled:  # the worker itself is being stopped
                self.outcome = released(0.0)
                raise
            self.outcome = released(0.0)

    async def _made(self, before: Sequence[Hook], after: Sequence[Hook], threads: Executor) -> pb.StepOutcome:
        if self.step.cancelled:
            return released(0.0)
        try:
            named = self.definition.arguments(self.step, from_value(self.input))
            for hook in before:
                await call(hook, threads, step=self.step)
            try:
                given = await call(self.definition.function, threads, **named)
            finally:
                for hook in after:
                    await call(hook, threads, step=self.step)
            return _gave(self.step, given)
        except StepFailed as failure:
            return _failed(failure.reason, failure.message, permanent=failure.permanent)
        except GiveBack as wish:
            return released(wish.after.total_seconds())
        except StepCancelled:
            return released(0.0)
        except Exception as failure:
            # Functions of users: whatever they raise is the failure of their step, and of nothing else.
            log.exception("step %s %s failed", self.step.name, self.step.key)
            return _failed("STEP_FAILED", f"{type(failure).__name__}: {failure}")


async def call(function: Callable[..., Any], threads: Executor, **named: Any) -> Any:
    """Calls a function of a user; one that is not `async` in a thread."""
    if asyncio.iscoroutinefunction(function):
        return await function(**named)
    # The thread goes on whatever happens here: its place is taken until it ends.
    return await asyncio.shield(asyncio.get_running_loop().run_in_executor(threads, partial(function, **named)))


def released(seconds: float) -> pb.StepOutcome:
    """Gives the outcome of a step that is given back."""
    if not seconds:
        return pb.StepOutcome(release=pb.StepRelease())
    delay = Duration()
    delay.FromMilliseconds(round(seconds * 1000))
    return pb.StepOutcome(release=pb.StepRelease(delay=delay))


def _gave(step: Step, given: object) -> pb.StepOutcome:
    try:
        output = to_value(given)
    except NotJson as error:
        return _failed("OUTPUT_NOT_JSON", str(error), permanent=True)
    if (size := output.ByteSize()) > MAX_OUTPUT_BYTES:
        message = (
            f"the output of step {step.name!r} has {size:,} bytes, and {MAX_OUTPUT_BYTES:,} are allowed; "
            "store it elsewhere and give a reference to it"
        )
        return _failed("OUTPUT_TOO_LARGE", message, permanent=True)
    return pb.StepOutcome(output=output)


def _failed(reason: str, message: str, *, permanent: bool = False) -> pb.StepOutcome:
    said = message[:_MAX_MESSAGE].encode(errors="replace").decode()
    return pb.StepOutcome(failure=pb.StepFailure(reason=reason, message=said, permanent=permanent))
