"""What a step's function is told, and what it may say beside its result."""

import inspect
import re
import threading
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, get_type_hints

from comitia.orchestrator.v1 import worker_service_pb2

_REASON: Final = re.compile(r"[A-Z0-9_]{1,63}")
_LONGEST_DELAY: Final = timedelta(hours=1)


class StepFailed(Exception):
    """The step failed. Raised by its function; any other exception is a failure that may pass.

    Args:
        message: what happened, for people; at most 4,000 characters, more is cut.
        reason: for conditions of the workflow: capitals, digits and `_`.
        permanent: True when another attempt cannot succeed either.
    """

    def __init__(self, message: str, *, reason: str = "STEP_FAILED", permanent: bool = False) -> None:
        if _REASON.fullmatch(reason) is None:
            raise ValueError(f"{reason!r} is no reason: it takes 1 to 63 capitals, digits and '_'")
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.permanent = permanent


class GiveBack(Exception):
    """The step is given back, and comes again later, here or elsewhere; no attempt is counted. Raised by its function.

    Args:
        after: not before so long, at most 1 hour.
    """

    def __init__(self, after: timedelta = timedelta(0)) -> None:
        if not timedelta(0) <= after <= _LONGEST_DELAY:
            raise ValueError(f"a step is given back for 0 to 1 hour, not for {after}")
        super().__init__(after)
        self.after = after


class StepCancelled(Exception):
    """Nobody waits for the step any more. Raised by `Step.check`."""


class Step:
    """One attempt of a step."""

    def __init__(self, lease: worker_service_pb2.Lease) -> None:
        self.name = lease.name
        self.pool = lease.pool or "default"
        self.run_id = lease.run_id
        #: Place in the run, such as `nodes/charge` or `nodes/pages/17`.
        self.path = lease.path
        #: Which attempt this is, from 1.
        self.attempt = lease.attempt
        #: When the outcome is no longer waited for.
        self.expires: datetime = lease.expire_time.ToDatetime(tzinfo=UTC)
        self._cancelled = threading.Event()

    @property
    def key(self) -> str:
        """Names the work, whichever attempt it is: an idempotency key."""
        return f"{self.run_id}/{self.path}"

    @property
    def cancelled(self) -> bool:
        """True once nobody waits for the step. An `async` function is cancelled then; any other has to look."""
        return self._cancelled.is_set()

    def check(self) -> None:
        """For functions that are not `async`: ends the step once nobody waits for it. Raises: StepCancelled."""
        if self.cancelled:
            raise StepCancelled(f"{self.key} was cancelled")

    def wait(self, seconds: float) -> bool:
        """For functions that are not `async`: waits, at most until the step is cancelled; True if it was."""
        return self._cancelled.wait(seconds)

    def cancel(self) -> None:
        """Tells the function that nobody waits. The worker does so."""
        self._cancelled.set()


StepFunction = Callable[..., Any]
Hook = Callable[..., Awaitable[None] | None]


class StepDefinition:
    """A function that makes steps of one name.

    Raises: TypeError: it takes its arguments in a way in which they cannot be given.
    """

    def __init__(self, name: str, function: StepFunction) -> None:
        self.name = name
        self.function = function
        self.is_async = inspect.iscoroutinefunction(function)
        self._signature = inspect.signature(function)
        try:
            hints = get_type_hints(function)
        except NameError as error:
            # A type that is imported for checkers only.
            raise TypeError(f"step {name!r}: {error}; import what its arguments are annotated with") from error
        #: Parameter that takes the `Step`; empty when there is none.
        self._step_parameter = next((name for name in self._signature.parameters if hints.get(name) is Step), "")
        for parameter in self._signature.parameters.values():
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
                raise TypeError(f"step {name!r}: fields of the input come by name, so {parameter} cannot take one")

    def arguments(self, step: Step, given: object) -> Mapping[str, Any]:
        """Gives the named arguments of a call. Raises: StepFailed: the input does not fit the function."""
        if not isinstance(given, Mapping):
            raise StepFailed("the input is no object", reason="INPUT_INVALID", permanent=True)
        named: dict[str, Any] = {str(name): value for name, value in given.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  # JSON
        if self._step_parameter:
            named[self._step_parameter] = step
        try:
            self._signature.bind(**named)
        except TypeError as error:
            message = f"the input does not fit the function of step {self.name!r}: {error}"
            raise StepFailed(message, reason="INPUT_INVALID", permanent=True) from error
        return named
