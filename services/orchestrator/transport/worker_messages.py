"""What a worker may say: names the field of what it may not."""

import re
from collections.abc import Callable, Sequence
from typing import Final

from google.protobuf.duration_pb2 import Duration

from comitia.orchestrator.v1 import worker_service_pb2 as pb
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import TenantId
from services.orchestrator.domain.terms import MAX_PROJECT
from services.orchestrator.engine.leases import DEFAULT_POOL, Desk

#: Of what a worker says first, which other replicas are told in one message.
MAX_HELLO_BYTES: Final = 3 * 1024 * 1024
MAX_CREDITS: Final = 10_000
MAX_STEPS: Final = 1_000
MAX_PROJECTS: Final = 100
#: Projects times steps.
MAX_KINDS: Final = 10_000
MAX_OUTCOMES: Final = 1_000
MAX_HEARTBEATS: Final = 10_000
MAX_DELAY_SECONDS: Final = 3_600
_WORKER: Final = re.compile(r"[A-Za-z0-9_.-]{1,63}")
_POOL: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
_STEP: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")
_REASON: Final = re.compile(r"[A-Z0-9_]{1,63}")


def check_hello(hello: pb.WorkerHello) -> None:
    """Raises: Invalid: it is too large to be read any further."""
    if hello.ByteSize() > MAX_HELLO_BYTES:
        raise Invalid("hello", f"must have at most {MAX_HELLO_BYTES} bytes")


def projects_of(hello: pb.WorkerHello) -> Sequence[str]:
    """Reads whose runs a worker wants to serve. Raises: Invalid."""
    if len(hello.projects) > MAX_PROJECTS:
        raise Invalid("hello.projects", f"must be at most {MAX_PROJECTS}")
    for place, project in enumerate(hello.projects):
        if len(project) > MAX_PROJECT or "\x00" in project:
            raise Invalid(f"hello.projects[{place}]", f"must have at most {MAX_PROJECT} characters, none of them NUL")
    if len(hello.projects) * len(hello.steps) > MAX_KINDS:
        raise Invalid(
            "hello.projects", f"times the steps must be at most {MAX_KINDS}; open a stream for each part of them"
        )
    return tuple(hello.projects)


def desk_of(
    hello: pb.WorkerHello,
    tenant: TenantId,
    subject: str,
    *,
    wake: Callable[[], None],
    lent: bool = False,
    ids_after: int = 0,
) -> Desk:
    """Reads who works. The other arguments as `Desk`. Raises: Invalid."""
    if _WORKER.fullmatch(hello.worker) is None:
        raise Invalid("hello.worker", "must be 1 to 63 letters, digits, '_', '-' and '.'")
    if hello.pool and _POOL.fullmatch(hello.pool) is None:
        raise Invalid("hello.pool", "must be 1 to 63 letters, digits, '_' and '-', starting with a letter")
    if not 1 <= len(hello.steps) <= MAX_STEPS:
        raise Invalid("hello.steps", f"must name 1 to {MAX_STEPS} steps")
    for place, name in enumerate(hello.steps):
        if _STEP.fullmatch(name) is None:
            sentence = "must be 1 to 63 letters, digits, '_', '-' and '.', starting with a letter"
            raise Invalid(f"hello.steps[{place}]", sentence)
    if not 1 <= hello.credits <= MAX_CREDITS:
        raise Invalid("hello.credits", f"must be 1 to {MAX_CREDITS}")
    if len(hello.held) > hello.credits:
        raise Invalid("hello.held", "must not be more than the credits")
    return Desk(
        tenant=tenant,
        subject=subject,
        worker=hello.worker,
        pool=hello.pool or DEFAULT_POOL,
        steps=hello.steps,
        wake=wake,
        projects=projects_of(hello) or ("",),
        lent=lent,
        ids_after=ids_after,
    )


def credits_of(message: pb.WorkerCredits, desk: Desk) -> int:
    """Reads how many more leases a worker takes. Raises: Invalid."""
    if not 1 <= message.count <= MAX_CREDITS - desk.taken:
        raise Invalid("credits.count", f"must be 1 or more, and {MAX_CREDITS} at most with those that the stream has")
    return message.count


def check_outcomes(message: pb.StepOutcomes) -> None:
    """Raises: Invalid: an outcome says nothing, or what it may not."""
    if len(message.outcomes) > MAX_OUTCOMES:
        raise Invalid("outcomes.outcomes", f"must be at most {MAX_OUTCOMES}")
    for place, outcome in enumerate(message.outcomes):
        if outcome.HasField("output"):
            continue
        field = f"outcomes.outcomes[{place}]"
        if outcome.HasField("failure"):
            reason = outcome.failure.reason
            if reason and _REASON.fullmatch(reason) is None:
                raise Invalid(f"{field}.failure.reason", "must be 1 to 63 capitals, digits and '_'")
        elif outcome.HasField("release"):
            if not 0 <= _seconds(outcome.release.delay) <= MAX_DELAY_SECONDS:
                raise Invalid(f"{field}.release.delay", "must be 0 to 1 hour")
        else:
            raise Invalid(field, "must have an output, a failure or a release")


def check_heartbeats(message: pb.Heartbeats) -> None:
    """Raises: Invalid: too many at once."""
    if len(message.lease_ids) > MAX_HEARTBEATS:
        raise Invalid("heartbeats.lease_ids", f"must be at most {MAX_HEARTBEATS}")


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
