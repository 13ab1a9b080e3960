"""What reports on the ledger need from outside."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Protocol
from uuid import UUID

from services.cost.domain.budget import NOTHING
from services.cost.domain.cost_event import CostEvent
from services.cost.domain.hold import CostKind
from services.cost.domain.rollup import Span, Step
from services.meshkit.content import Usage
from services.meshkit.core.identity import TenantId
from services.meshkit.core.money import NanoUsd


class Dimension(IntEnum):
    """What charges are added up by."""

    MODEL = 1
    PROVIDER = 2
    AGENT = 3
    RUN = 4
    PROJECT = 5
    KIND = 6
    #: Tools and memory operations; charges of other kinds are left out.
    TOOL = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class CostFilter:
    """Which charges; None is any."""

    run_id: str | None = None
    project: str | None = None
    agent_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryQuery:
    """Which charges to add up, and by what."""

    by: Dimension
    span: Span = field(default_factory=Span)
    only: CostFilter = field(default_factory=CostFilter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Charges added up."""

    events: int = 0
    usage: Usage = field(default_factory=Usage)
    cost: NanoUsd = NOTHING
    assumed: NanoUsd = NOTHING
    #: Charges whose price is unknown, and what they come to at their ceilings.
    unpriced_events: int = 0
    unpriced: NanoUsd = NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryLine:
    """Charges with one value of the dimension."""

    key: str
    sums: Sums


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Lines, dearest first, and what all charges come to, those beyond the last line included."""

    lines: tuple[SummaryLine, ...]
    events: int
    cost: NanoUsd
    assumed: NanoUsd
    unpriced_events: int
    unpriced: NanoUsd


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesQuery:
    """Which charges to add up by time."""

    #: None: all together in one line.
    by: Dimension | None
    step: Step
    #: Whole steps.
    span: Span
    only: CostFilter = field(default_factory=CostFilter)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesLine:
    """What one value of the dimension came to, step by step; steps without charges are left out."""

    #: None: all values that have no line of their own.
    key: str | None
    points: dict[datetime, Sums]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportLine:
    """What is charged to one project, agent, provider and model for one step of time."""

    start: datetime
    project: str
    agent_name: str
    provider: str
    model: str
    kind: CostKind
    sums: Sums


class LedgerReader(Protocol):
    """Reads cost events of one tenant, and their sums."""

    async def page(
        self, tenant: TenantId, only: CostFilter, *, size: int, after: tuple[datetime, UUID] | None
    ) -> list[CostEvent]:
        """Lists entries, newest first, from the one after `after` on."""
        ...

    async def ascending(
        self,
        tenant: TenantId,
        span: Span,
        only: CostFilter,
        *,
        size: int,
        after: tuple[datetime, UUID] | None,
    ) -> list[CostEvent]:
        """Lists entries, oldest first, from the one after `after` on.

        Raises: Invalid: it begins within a time of which only sums are kept.
        """
        ...

    async def summary(self, tenant: TenantId, query: SummaryQuery, *, most_lines: int) -> Summary:
        """Adds up entries; all of them, also those of a moment ago.

        Raises: Invalid: the span begins or ends within a time of which only the sum is kept.
        """
        ...

    async def series(self, tenant: TenantId, query: SeriesQuery, *, most_lines: int) -> list[SeriesLine]:
        """Adds up entries step by step, dearest line first; what has no line of its own comes last, with key None.

        Raises: Invalid: steps within a time of which only coarser sums are kept.
        """
        ...

    def lines(
        self, tenant: TenantId, step: Step, span: Span, only: CostFilter, *, size: int
    ) -> AsyncGenerator[Sequence[ExportLine]]:
        """Lists what is charged to whom, by time and names, as it stood at one moment; so many lines at a time.

        The transaction stays open until the last one is taken.
        """
        ...


class Rollups(Protocol):
    """Sums of the ledger of all tenants."""

    async def add_up(self, *, most: int) -> int:
        """Adds entries that are not in the sums yet, about `most` of them; gives how many it added.

        0: all are in, those of transactions that have not ended aside, or another replica is at it.
        """
        ...

    async def keep_from(self, moment: datetime) -> None:
        """Notes that entries before may be gone; it never goes back."""
        ...

    async def forget(self, before: datetime, *, most: int) -> int:
        """Removes entries before a moment that `keep_from` was told, if they are in the sums; gives how many."""
        ...
