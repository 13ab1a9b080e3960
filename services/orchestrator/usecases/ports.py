"""What the orchestrator's use cases need from others."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from comitia.orchestrator.v1 import agent_pb2, journal_pb2
from services.meshkit.core.identity import Caller, Principal, TenantId
from services.meshkit.core.money import NanoUsd
from services.orchestrator.domain.agent import Agent
from services.orchestrator.domain.workflow import StoredWorkflow
from services.orchestrator.engine.facts import Beginning
from services.orchestrator.engine.run import OwnedRun, RunView, StartKey
from services.orchestrator.workflows.definition import KnownWorkflow


class AgentStore(Protocol):
    """Stores agents by tenant."""

    async def add(self, tenant: TenantId, agent: Agent) -> Agent:
        """Stores a version; the same definition again gives the stored one.

        Raises: AgentVersionExists: the version exists with another definition.
        """
        ...

    async def find(self, tenant: TenantId, name: str, version: str) -> Agent:
        """Gives a version, the highest when `version` is empty. Raises: AgentNotFound."""
        ...

    async def resolve(self, tenant: TenantId, references: Sequence[tuple[str, str]]) -> Sequence[Agent]:
        """Gives the versions of a session's agents, pairs (name, version or empty), in order.

        Raises: AgentNotFound: `field` says which, such as `agents[1]`.
        """
        ...


class WorkflowStore(Protocol):
    """Stores workflows by tenant."""

    async def add(self, tenant: TenantId, made: StoredWorkflow, *, written_digest: str) -> StoredWorkflow:
        """Stores a version; the same definition again, as it is pinned or as it was written, gives the stored one.

        Raises: WorkflowVersionExists: the version exists with another definition. QuotaExceeded.
        """
        ...

    async def find(self, tenant: TenantId, name: str, version: str) -> StoredWorkflow:
        """Gives a version, the highest when `version` is empty. Raises: WorkflowNotFound."""
        ...

    async def known(
        self, tenant: TenantId, references: Sequence[tuple[str, str]]
    ) -> Mapping[tuple[str, str], KnownWorkflow]:
        """Gives what exists of pairs (name, version or empty), the highest version where it is empty."""
        ...


class Neighbours(Protocol):
    """What has to stand at the neighbours before a run begins."""

    async def open_budget(self, caller: Caller, run_id: str, limit: NanoUsd, *, project: str) -> str:
        """Makes the run's budget at cost, below that of its project; gives its id. Idempotent per run.

        Args:
            project: empty for a run of none.
        """
        ...

    async def issue_grant(self, caller: Caller, run_id: str) -> str:
        """Has the gateway store a grant for the run; gives its id. Idempotent per run."""
        ...


class AgentFacts(Protocol):
    """Writes agents as the facts that a run pins."""

    def __call__(self, agent: Agent) -> agent_pb2.Agent:
        """Converts one version."""
        ...


class Runs(Protocol):
    """The engine, as use cases see it."""

    async def started_before(self, key: StartKey) -> RunView | None:
        """Gives what this request was answered when it started a run, None if it did not.

        Raises: RequestIdReused, RequestInProgress.
        """
        ...

    async def check_quota(self, tenant: TenantId) -> None:
        """Refuses when the tenant has as many runs in progress as it may. Raises: QuotaExceeded."""
        ...

    def place(self, tenant: TenantId) -> AbstractContextManager[None]:
        """Keeps a place for one run of a tenant until the block ends; entered before anything is made for the run.

        Raises: RunsAtLimit.
        """
        ...

    def new_run_id(self) -> str:
        """Makes the id of a run that this replica can drive itself, if it can."""
        ...

    async def start(self, key: StartKey | None, run: OwnedRun, started: journal_pb2.RunStarted) -> RunView:
        """Records a run and begins to drive it; gives it as it began, or the answer to a concurrent repeat.

        Called within `place`. Raises: RequestIdReused, RequestInProgress, QuotaExceeded.
        """
        ...

    async def begin(self, key: StartKey | None, run: OwnedRun, beginning: Beginning) -> RunView:
        """As `start`, for a run of which more was decided than what follows from its RunStarted."""
        ...

    async def command(self, principal: Principal, run_id: str, kind: str, payload: bytes = b"") -> None:
        """Stores a command for the run's owner and waits until it was taken, at most 2 s.

        Args:
            kind: `advance`, `cancel`, `pause`, `resume` or `signal`.
            payload: an encoded SignalReceived, for a signal.
        Raises: AnsweredBefore, RequestIdReused, RequestInProgress: for a request with an id, which it claims.
        """
        ...


class GivenCommands(Protocol):
    """Commands that requests with an id have given, and their answers."""

    async def taken_before(self, tenant: TenantId) -> bool:
        """Says whether the running request gave its command before, and its answer was not kept.

        Without an id it did not. Raises: AnsweredBefore; RequestIdReused; RequestInProgress: its command waits for the
        run's owner.
        """
        ...

    async def keep_answer(self, tenant: TenantId, view: RunView) -> None:
        """Keeps the answer to the running request, once its command was taken."""
        ...


class Bundles(Protocol):
    """Looks up bundles of rules."""

    async def digest(self, caller: Caller, bundle: str) -> str:
        """Gives the digest of a bundle, `name@version`. Raises: MeshError: there is none, or no answer."""
        ...


class ToolVersions(Protocol):
    """Looks up tools."""

    async def latest(self, caller: Caller, name: str) -> str:
        """Gives the highest version of a tool as `name@version`. Raises: MeshError: there is none, or no answer."""
        ...


class RunTrees(Protocol):
    """Knows how large the trees are that runs grow."""

    async def below(self, tenant: TenantId, sub_run_id: str, *, most: int) -> int:
        """Counts the runs that lie below the root of a sub-run, which need not be there yet; no further than `most`."""
        ...
