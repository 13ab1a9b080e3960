"""What the orchestrator refuses, and why.

Invalid       └── WorkflowInvalid
NotFound      ├── AgentNotFound
              ├── SessionNotFound
              └── WorkflowNotFound
AlreadyExists ├── AgentVersionExists
              └── WorkflowVersionExists
Precondition  ├── SessionNotWaiting
              ├── SessionAlreadyTerminal
              └── RunDiverged
Exhausted     └── RunsAtLimit
Conflict      └── LeaseLost
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from services.meshkit.core.errors import AlreadyExists, Conflict, Exhausted, Invalid, NotFound, Precondition
from services.orchestrator.domain.workflow import Fault

#: Faults of a workflow that an error lists; ValidateWorkflow tells them all.
_MOST_LISTED: Final = 12


class AgentNotFound(NotFound):
    """No such agent, or no such version of it. Create it, or look at the list of agents."""

    reason = "AGENT_NOT_FOUND"

    def __init__(self, name: str, *, field: str | None = None) -> None:
        super().__init__("agent", name, field=field)


class SessionNotFound(NotFound):
    """No such session in the caller's tenant."""

    reason = "SESSION_NOT_FOUND"

    def __init__(self, session_id: str) -> None:
        super().__init__("session", session_id)


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


class RunDiverged(Precondition):
    """The recorded facts do not follow from the program. The run is parked, its facts are left as they are."""

    reason = "RUN_DIVERGED"

    def __init__(self, run_id: str, sequence: int) -> None:
        super().__init__(
            f"run {run_id} cannot go on: fact {sequence} is not what its program decides",
            run_id=run_id,
            sequence=sequence,
        )


class RunsAtLimit(Exhausted):
    """This replica drives as many runs as it may. Retry, or add a replica."""

    reason = "RUNS_AT_LIMIT"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"{limit} sessions are running already; wait for one to end, or add a replica",
            retry_after=timedelta(seconds=5),
            limit=limit,
        )


class LeaseLost(Conflict):
    """Another replica drives the run now; what this one was about to write is void (INV-2)."""

    reason = "LEASE_LOST"

    def __init__(self, run_id: str) -> None:
        super().__init__(f"run {run_id} is driven by another replica", run_id=run_id)


def _listed(fault: Fault) -> str:
    place = f"{fault.line}:{fault.column} " if fault.line else ""
    return f"{place}{fault.field or 'the whole'} {fault.reason}: {fault.sentence}"
