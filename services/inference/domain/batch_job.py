"""Life of a batch that a provider works on for hours. Pure; whoever carries a batch on holds a lease on it.

    ACCEPTED ─▶ HELD ─▶ SUBMITTING ─▶ RUNNING ─▶ ENDED
       ▲         │          │            │ └─▶ CANCELLING ─▶ CANCELLED
       └─────────┘◀─────────┘            └─▶ LOST
     (given back)    (certainly not sent)   (SUBMITTING too)

What is written before a step is what makes the step safe to break off: money is held by names that follow from the
batch, what is held is written before it may leave, and a batch that may have left is looked for and never sent again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID, uuid5

from services.inference.domain.answer import Answer
from services.inference.domain.call import Blocked, Unjudged
from services.inference.domain.deployment import DeploymentVersion
from services.inference.domain.errors import BatchEnded
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid

BATCH_PREFIX: Final = "batch"
MOST_ITEMS: Final = 1_000
MOST_OPEN_BATCHES: Final = 50
#: Providers answer within a day; one that has said nothing by then has lost it.
MOST_WAIT: Final = timedelta(hours=48)
#: A submission that broke off is looked for so long: the provider may take a while to show what it took.
MOST_SEARCH: Final = timedelta(minutes=10)
#: The same where a provider shows what is in a batch only once that has ended, which it does within a day.
MOST_BLIND_SEARCH: Final = timedelta(hours=25)


class BatchState(StrEnum):
    """Where a batch is in its life."""

    ACCEPTED = "accepted"
    HELD = "held"
    SUBMITTING = "submitting"
    RUNNING = "running"
    CANCELLING = "cancelling"
    ENDED = "ended"
    CANCELLED = "cancelled"
    LOST = "lost"
    #: As another release says, and this one cannot.
    UNREADABLE = "unreadable"


OPEN: Final = (
    BatchState.ACCEPTED,
    BatchState.HELD,
    BatchState.SUBMITTING,
    BatchState.RUNNING,
    BatchState.CANCELLING,
)
#: States from which a batch moves, and where to.
MOVES: Final = {
    BatchState.ACCEPTED: {BatchState.HELD, BatchState.ENDED, BatchState.CANCELLED},
    BatchState.HELD: {BatchState.ACCEPTED, BatchState.SUBMITTING, BatchState.ENDED, BatchState.CANCELLED},
    BatchState.SUBMITTING: {BatchState.HELD, BatchState.RUNNING, BatchState.ENDED, BatchState.LOST},
    BatchState.RUNNING: {BatchState.CANCELLING, BatchState.ENDED, BatchState.CANCELLED, BatchState.LOST},
    BatchState.CANCELLING: {BatchState.ENDED, BatchState.CANCELLED, BatchState.LOST},
    BatchState.ENDED: set[BatchState](),
    BatchState.CANCELLED: set[BatchState](),
    BatchState.LOST: set[BatchState](),
    BatchState.UNREADABLE: set[BatchState](),
}


class ItemState(StrEnum):
    """Where an item of a batch is."""

    WAITING = "waiting"
    SENT = "sent"
    ANSWERED = "answered"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    #: As another release says, and this one cannot.
    UNREADABLE = "unreadable"


#: States in which an item stays.
FINAL: Final = frozenset({ItemState.ANSWERED, ItemState.FAILED, ItemState.CANCELLED, ItemState.UNKNOWN})


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchJob:
    """A batch of prompts for one version of one deployment."""

    id: UUID
    tenant: TenantId
    #: Name of the deployment and number of its version; 0 for one of the settings.
    deployment: str
    version: int
    #: Which deployment of this name, `dep_…`; empty for one of the settings.
    deployment_id: str = ""
    #: Who is paid.
    payee: str
    #: On which it acts, `grant_…`.
    grant_id: str
    project: str = ""
    item_count: int
    state: BatchState = BatchState.ACCEPTED
    #: Times that money was held for it and given back: each time it is held under other names.
    tries: int = 0
    #: Name that the provider gave it; empty until it is known to have it.
    provider_id: str = ""
    cancel_requested: bool = False
    #: Why it waits, was refused or lost.
    reason: str = ""
    created: datetime
    submitted: datetime | None = None
    ended: datetime | None = None

    @property
    def name(self) -> str:
        """Its id, `batch_…`."""
        return from_uuid(BATCH_PREFIX, self.id)

    @property
    def full_name(self) -> str:
        """Name of the version that is asked, such as `acme/writer@3`."""
        return f"{self.deployment}@{self.version}" if self.version else self.deployment

    def asks(self, version: DeploymentVersion) -> bool:
        """Says whether it is this version that the batch is for."""
        return (version.name, version.version, version.deployment_id) == (
            self.deployment,
            self.version,
            self.deployment_id,
        )

    def to_reserve(self, index: int) -> UUID:
        """Gives the id by which money is held for an item: the same after a crash, another once it was given back."""
        return uuid5(self.id, f"{self.tries}/{index}")

    def check_cancellable(self) -> None:
        """Raises: BatchEnded."""
        if self.state not in OPEN and (self.ended is not None or self.state is not BatchState.UNREADABLE):
            raise BatchEnded(self.name, state=self.state)

    def to(self, state: BatchState, now: datetime, *, reason: str = "", provider_id: str = "") -> "BatchJob":
        """Gives the batch in its next state.

        Raises: ValueError: no batch goes there from here.
        """
        if state not in MOVES[self.state]:
            raise ValueError(f"a batch does not go from {self.state} to {state}")
        moved = replace(self, state=state, reason=reason, provider_id=provider_id or self.provider_id)
        if state is BatchState.ACCEPTED:
            moved = replace(moved, tries=self.tries + 1)
        if state is BatchState.SUBMITTING:
            moved = replace(moved, submitted=now)
        if state is BatchState.HELD:
            moved = replace(moved, submitted=None)
        return moved if state in OPEN else replace(moved, ended=now)

    def finished(self, now: datetime, *, reason: str = "") -> "BatchJob":
        """Gives the batch once every item has come to its end."""
        stopped = self.cancel_requested and BatchState.CANCELLED in MOVES[self.state]
        return self.to(BatchState.CANCELLED if stopped else BatchState.ENDED, now, reason=reason)

    def given_up(self, now: datetime, *, blind: bool) -> bool:
        """Says whether a batch that may have left has been waited for, or looked for, long enough.

        Args:
            blind: True where the provider shows what is in a batch only once that has ended.
        """
        if self.submitted is None:
            return False
        if self.state is BatchState.SUBMITTING:
            return now - self.submitted >= (MOST_BLIND_SEARCH if blind else MOST_SEARCH)
        return now - self.submitted >= MOST_WAIT


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchItem:
    """One prompt of a batch."""

    #: Place in the batch, from 0.
    index: int
    #: Id that the caller gave it.
    item_id: str
    state: ItemState = ItemState.WAITING
    #: Why it has no answer.
    reason: str = ""
    #: Hold that pays for it, and by whose name the provider knows it; empty: none.
    hold_id: str = ""
    #: What was charged, nano-USD; None: not yet.
    charged: int | None = None
    #: Once sent what its answer begins as, then its answer or that the law stopped it.
    outcome: Answer | Blocked | Unjudged | None = None


def ends(items: Sequence[BatchItem], state: ItemState, reason: str = "") -> list[BatchItem]:
    """Gives those that have no outcome yet with this one."""
    return [replace(one, state=state, reason=reason) for one in items if one.state not in FINAL]
