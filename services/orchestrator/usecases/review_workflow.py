"""Reads a definition and says everything that is wrong with it, or what it is with every reference pinned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.meshkit.batching.threads import Threads
from services.meshkit.core.identity import TenantId
from services.orchestrator.domain.workflow import Fault, StoredWorkflow
from services.orchestrator.usecases.ports import WorkflowStore
from services.orchestrator.workflows.definition import Draft, Format, read_document, read_text
from services.orchestrator.workflows.document import Document, canonical_bytes, digest_of


class AgentVersions(Protocol):
    """Knows which agents exist."""

    async def versions(self, tenant: TenantId, references: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], str]:
        """Gives the versions that exist of pairs (name, version or empty), the highest where it is empty."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenText:
    """A definition as people write it."""

    text: str
    #: None where its fields tell.
    written_in: Format | None
    #: Empty where the text says it; the same for the version.
    name: str
    version: str


#: A definition as it came: text, or what a message held.
Definition = WrittenText | Document


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """What became of a definition."""

    #: None when there are faults.
    stored: StoredWorkflow | None
    #: Digest of what was written, hex; empty when there are faults.
    written_digest: str
    faults: Sequence[Fault]
    #: True when there are more than those.
    more_faults: bool


class ReviewWorkflow:
    """Reads, checks and pins a definition; changes nothing.

    Args:
        threads: read and check definitions; a large one takes a second.
    """

    def __init__(self, *, agents: AgentVersions, workflows: WorkflowStore, threads: Threads) -> None:
        self._agents = agents
        self._workflows = workflows
        self._threads = threads

    async def __call__(self, tenant: TenantId, definition: Definition) -> Review:
        """Gives the review. Raises: QueueFull: too many definitions wait to be read."""
        draft = await self._threads.run(lambda: _read(definition))
        agents = await self._agents.versions(tenant, [(one.name, one.version) for one in draft.agents])
        workflows = await self._workflows.known(tenant, [(one.name, one.version) for one in draft.workflows])

        def pin() -> Review:
            stored = draft.pinned(agents, workflows)
            written = "" if stored is None or draft.workflow is None else digest_of(canonical_bytes(draft.workflow))
            faults = draft.faults
            return Review(stored=stored, written_digest=written, faults=faults.found, more_faults=faults.more)

        return await self._threads.run(pin)


def _read(definition: Definition) -> Draft:
    if isinstance(definition, WrittenText):
        return read_text(definition.text, definition.written_in, name=definition.name, version=definition.version)
    return read_document(definition)
