"""Nouns of the engine: a run that this replica owns, and what one commit writes."""

from dataclasses import dataclass, field
from uuid import UUID

from comitia.orchestrator.v1 import journal_pb2, session_pb2
from services.meshkit.core.identity import TenantId


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedRun:
    """A run and the lease under which this replica writes to it."""

    tenant: TenantId
    #: `run_…`.
    run_id: str
    grant_id: str
    #: Fencing number of the lease: a commit under an older one changes nothing.
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StartKey:
    """What makes a start request the same request."""

    tenant: TenantId
    request_id: UUID
    #: The request, encoded deterministically, without its `request_id`.
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What one commit of a run writes: its facts and what callers see of it afterwards."""

    first_sequence: int
    entries: tuple[journal_pb2.JournalEntry, ...]
    view: session_pb2.Session
    #: Commands whose effect is among the facts, and which are done with it.
    commands: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCommand:
    """What somebody asked of a run: `advance` or `cancel`."""

    command_id: UUID
    kind: str
    #: Subject who asked.
    by: str
