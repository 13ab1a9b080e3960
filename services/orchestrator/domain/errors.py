"""What the orchestrator refuses, and why.

Invalid       ├── RunInputInvalid
              └── WorkflowInvalid
NotFound      ├── AgentNotFound
              ├── RunNotFound
              ├── SessionNotFound
              └── WorkflowNotFound
AlreadyExists ├── AgentVersionExists
              └── WorkflowVersionExists
Precondition  ├── SessionNotWaiting
              ├── SessionAlreadyTerminal
              ├── RunAlreadyTerminal
              ├── RunNotPaused
              ├── RunStandsStill
              ├── RunDiverged
              ├── EstimateNotPriced
              ├── RecordDestroyed
              ├── RecordBroken
              ├── RunNotEnded
              ├── RunArchived
              ├── ProgramMissing
              └── WorkerMalformed
Denied        ├── PersonRequired
              └── TurnsNotForService
Exhausted     ├── EstimateExceedsBudget
              ├── RunsAtLimit
              ├── SignalsAtLimit
              └── WorkersAtLimit
Unavailable   ├── PreflightUnavailable
              └── TurnStillMade
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from services.meshkit.core.errors import (
    AlreadyExists,
    Exhausted,
    Invalid,
    NotFound,
    PermissionDenied,
    Precondition,
    Unavailable,
)
from services.meshkit.core.money import NanoUsd, format_usd
from services.orchestrator.domain.workflow import Fault

#: Faults of a workflow that an error lists; ValidateWorkflow tells them all. Models without a price, too.
_MOST_LISTED: Final = 12


class AgentNotFound(NotFound):
    """No such agent, or no such version of it. Create it, or look at the list of agents."""

    reason = "AGENT_NOT_FOUND"

    def __init__(self, name: str, *, field: str | None = None) -> None:
        super().__init__("agent", name, field=field)


class BundleNotFound(NotFound):
    """No such bundle of rules to fork a run under. Store it first, which need not make it law."""

    reason = "BUNDLE_NOT_FOUND"

    def __init__(self, bundle: str, *, field: str | None = None) -> None:
        super().__init__("bundle", bundle, field=field)
        self.message = f"{self.message}; store it first, or name one of the list of bundles"


class SessionNotFound(NotFound):
    """No such session in the caller's tenant."""

    reason = "SESSION_NOT_FOUND"

    def __init__(self, session_id: str) -> None:
        super().__init__("session", session_id)


class RunArchived(Precondition):
    """The facts of the run are in the archive. ExportRun gives them as a file, which `comitia replay` replays."""

    reason = "RUN_ARCHIVED"

    def __init__(self, run_id: str) -> None:
        super().__init__(
            f"the facts of {run_id} are in the archive; export it (`comitia run export`) and read or replay the file",
            run_id=run_id,
        )


class RunNotFound(NotFound):
    """No such run in the caller's tenant."""

    reason = "RUN_NOT_FOUND"

    def __init__(self, run_id: str) -> None:
        super().__init__("run", run_id)


class WorkflowInvalid(Invalid):
    """A definition has faults. Each is named with its place and reason; ValidateWorkflow tells them all."""

    reason = "WORKFLOW_INVALID"

    def __init__(self, faults: Sequence[Fault], *, root: str) -> None:
        """Args: root: the field of the request that holds the definition."""
        first = faults[0]
        others = f" (and {len(faults) - 1} more; ask ValidateWorkflow for all)" if len(faults) > 1 else ""
        listed = {f"fault_{number}": _listed(fault) for number, fault in enumerate(faults[:_MOST_LISTED], start=1)}
        field = root if root == "source" or not first.field else f"{root}.{first.field}"
        super().__init__(field, f"{_listed(first)}{others}", faults=len(faults), **listed)


class WorkflowNotFound(NotFound):
    """No such workflow, or no such version of it. Create it, or look at the list of workflows."""

    reason = "WORKFLOW_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__("workflow", name)


class WorkflowVersionExists(AlreadyExists):
    """The version exists with another definition. A version never changes: choose the next one."""

    reason = "WORKFLOW_VERSION_EXISTS"

    def __init__(self, name: str, version: str) -> None:
        super().__init__("workflow", f"{name}@{version}")


class AgentVersionExists(AlreadyExists):
    """The version exists with another definition. A version never changes: choose the next one."""

    reason = "AGENT_VERSION_EXISTS"

    def __init__(self, name: str, version: str) -> None:
        super().__init__("agent", f"{name}@{version}")


class RunInputInvalid(Invalid):
    """The input of a run is not what its workflow takes. The field says what of it, the sentence what it should be."""

    reason = "RUN_INPUT_INVALID"


class TurnStillMade(Unavailable):
    """The orchestrator that waits for a turn stops. Another goes on with it: ask again with the same `request_id`."""

    reason = "TURN_STILL_MADE"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"the orchestrator that waits for the turn of {session_id}")


class SessionNotWaiting(Precondition):
    """Only a session that waits can be advanced."""

    reason = "SESSION_NOT_WAITING"

    def __init__(self, session_id: str, state: str) -> None:
        super().__init__(
            f"session {session_id} is {state}, not waiting; only a session with manual_advance waits after each round",
            session_id=session_id,
            state=state,
        )


class SessionAlreadyTerminal(Precondition):
    """The session has ended. Start a new one."""

    reason = "SESSION_ALREADY_TERMINAL"

    def __init__(self, session_id: str, state: str) -> None:
        super().__init__(f"session {session_id} has ended as {state}", session_id=session_id, state=state)


class RunAlreadyTerminal(Precondition):
    """The run has ended. Start a new one."""

    reason = "RUN_ALREADY_TERMINAL"

    def __init__(self, run_id: str, state: str) -> None:
        super().__init__(f"run {run_id} has ended as {state}", run_id=run_id, state=state)


class RunNotPaused(Precondition):
    """Only a run that is paused, or parked at a step or by a fault of the mesh, can be resumed."""

    reason = "RUN_NOT_PAUSED"

    def __init__(self, run_id: str, state: str) -> None:
        super().__init__(
            f"run {run_id} is {state}; only a run that is paused, or parked at a step or by a fault of the mesh, can "
            "be resumed: what else parks a run ends by itself, or with another release, or with CancelRun",
            run_id=run_id,
            state=state,
        )


class RunStandsStill(Precondition):
    """It waits for another release, or cannot be read: it calls nothing, and no pause is kept. Wait, or cancel it."""

    reason = "RUN_STANDS_STILL"

    def __init__(self, run_id: str, cause: str) -> None:
        super().__init__(
            f"run {run_id} is parked with {cause} and calls nothing, so there is nothing to pause; a release that can "
            "go on with it does so, CancelRun ends it, and the runs that it has started can be paused one by one",
            run_id=run_id,
            cause=cause,
        )


class RunDiverged(Precondition):
    """The recorded facts do not follow from the program. The run is parked, its facts are left as they are."""

    reason = "RUN_DIVERGED"

    def __init__(self, run_id: str, sequence: int) -> None:
        super().__init__(
            f"run {run_id} cannot go on: fact {sequence} is not what its program decides",
            run_id=run_id,
            sequence=sequence,
        )


class RecordDestroyed(Precondition):
    """The key of the run's content was destroyed. Replay and export show what is left: its structure."""

    reason = "RECORD_DESTROYED"

    def __init__(self, run_id: str) -> None:
        super().__init__(f"the content of run {run_id} was destroyed with its key", run_id=run_id)


class PersonRequired(PermissionDenied):
    """A program said what only a person can say: that a person has read a text."""

    reason = "PERSON_REQUIRED"

    def __init__(self, signal: str) -> None:
        super().__init__(f"signal {signal!r} says that a person has read a text; sign in and send it", signal=signal)


class StorageFull(Exhausted):
    """The runs of a tenant take more than they may, so those in progress wait. Free some of it, or raise the quota."""

    reason = "STORAGE_QUOTA_EXCEEDED"

    def __init__(self, *, limit: int, used: int) -> None:
        super().__init__(
            f"the runs of your tenant take {used} bytes and may take {limit}, and a tenth more once they have begun; "
            "have old runs archived sooner, or ask the operator of the installation for more",
            limit=limit,
            used=used,
        )


class TurnsNotForService(PermissionDenied):
    """A service other than policy asked for what was said in all runs of a tenant."""

    reason = "TURNS_NOT_FOR_SERVICE"

    def __init__(self, service: str) -> None:
        super().__init__(
            f"what was said in all runs is not for {service}; of services policy alone may ask", service=service
        )


class RecordBroken(Precondition):
    """Something of the run's journal was changed or is missing. Replay says where; nothing is signed over it."""

    reason = "RECORD_BROKEN"

    def __init__(self, run_id: str, sequence: int) -> None:
        super().__init__(
            f"the record of run {run_id} is broken at fact {sequence}; ReplayRun says how",
            run_id=run_id,
            sequence=sequence,
        )


class RunNotEnded(Precondition):
    """What is asked for exists once the run has ended."""

    reason = "RUN_NOT_ENDED"

    def __init__(self, run_id: str) -> None:
        super().__init__(f"run {run_id} has not ended; wait for its end, or cancel it", run_id=run_id)


class ProgramMissing(Precondition):
    """The run was begun by a program, or a version of it, that this release does not have."""

    reason = "PROGRAM_UNKNOWN"

    def __init__(self, run_id: str, sentence: str) -> None:
        super().__init__(f"run {run_id}: {sentence}", run_id=run_id)


class RunsAtLimit(Exhausted):
    """This replica drives as many runs as it may, or as many of one tenant. Retry, or add a replica."""

    reason = "RUNS_AT_LIMIT"

    def __init__(self, limit: int, *, of_tenant: bool = False) -> None:
        whose = "runs of your tenant, its share of this replica," if of_tenant else "runs"
        super().__init__(
            f"{limit} {whose} are driven already; wait for one to end, or add a replica",
            retry_after=timedelta(seconds=5),
            limit=limit,
        )


class EstimateExceedsBudget(Exhausted):
    """The run is more likely than not to exceed a budget. Ask for less, or for a cheaper model, or raise the budget."""

    reason = "ESTIMATE_EXCEEDS_BUDGET"

    def __init__(self, budget: str, *, expected: NanoUsd, left: NanoUsd) -> None:
        super().__init__(
            f"the run is expected to take {format_usd(expected)}, and its budget {budget!r} has {format_usd(left)} "
            "left; ask for less or for a cheaper model, raise the budget, or start it without preflight",
            budget=budget,
            expected_nano_usd=expected,
            left_nano_usd=left,
        )


class EstimateNotPriced(Precondition):
    """A model of the run has no known price, so nobody can say whether it fits. Import one, or ask another model."""

    reason = "ESTIMATE_NOT_PRICED"

    def __init__(self, models: Sequence[str]) -> None:
        more = f" and {len(models) - _MOST_LISTED} more" if len(models) > _MOST_LISTED else ""
        names = ", ".join(models[:_MOST_LISTED]) + more
        super().__init__(
            f"nobody can say what the run takes, for no price is known of {names}; ask for a model that `comitia "
            "models` shows as priced, have an operator import the price (`comitia prices import`), use a key that may "
            "see models and prices, or start it with preflight `warn`",
            models=names,
        )


class PreflightUnavailable(Unavailable):
    """Preflight starts no run that may not fit, and nobody can say now whether this one does. Try again."""

    reason = "PREFLIGHT_UNAVAILABLE"

    def __init__(self, dependency: str) -> None:
        super().__init__(f"{dependency}, which preflight asks whether the run fits its budgets,")


class SubRunsAtLimit(Exhausted):
    """A run, with those that it has started, has started as many as may be. It stays so.

    Runs of a tenant that began in the same millisecond are counted together (`sub_run_id.ids_of_tree`).
    """

    reason = "SUB_RUNS_AT_LIMIT"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"{limit} runs were started by steps below one run, or below several that began in the same millisecond, "
            "which is the most; give more to each of them, or start several runs, not all at once",
            limit=limit,
        )


class SignalsAtLimit(Exhausted):
    """As many signals wait for a run as may. Its owner takes them within a second when it is well."""

    reason = "SIGNALS_AT_LIMIT"

    def __init__(self, run_id: str, limit: int) -> None:
        super().__init__(
            f"{limit} signals wait for run {run_id} already; send it again later",
            retry_after=timedelta(seconds=1),
            run_id=run_id,
            limit=limit,
        )


class WorkersAtLimit(Exhausted):
    """As many workers are connected as may. Let one stop, give one more credits, or add a replica."""

    reason = "WORKERS_AT_LIMIT"

    def __init__(self, whose: str, limit: int) -> None:
        super().__init__(
            f"{limit} workers of {whose} are connected already; stop one, or give one more credits",
            retry_after=timedelta(seconds=5),
            limit=limit,
        )


class WorkerMalformed(Precondition):
    """What a worker sends is out of order: its first message says hello, and no other does."""

    reason = "WORKER_MALFORMED"


def _listed(fault: Fault) -> str:
    place = f"{fault.line}:{fault.column} " if fault.line else ""
    return f"{place}{fault.field or 'the whole'} {fault.reason}: {fault.sentence}"
