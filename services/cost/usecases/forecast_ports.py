"""What watching, forecasting and recommending need from outside."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from services.cost.domain.spend_alert import SpendAlert
from services.cost.domain.use_history import Use
from services.meshkit.core.identity import TenantId


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendPart:
    """Which part of a tenant's spend is meant; all of it unless something is named."""

    run_id: str | None = None
    agent: str | None = None
    project: str | None = None
    #: A step of the run, and all steps below it.
    path: str | None = None


#: All that a tenant spends.
WHOLE = SpendPart()


class Spender(StrEnum):
    """Who may be behind unusual spend."""

    RUN = "run"
    AGENT = "agent"
    MODEL = "model"
    PROJECT = "project"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """What those who spent most since some hour began spent in it, and before it; nano-USD by name."""

    since: Mapping[str, int]
    before: Mapping[str, int]


class SpendReader(Protocol):
    """Adds up what one tenant spent. Times are half open: from `start`, to before `end`.

    Entries that price charges of the past anew are left out: they are no calls of the hour that they were written in.
    """

    async def hourly(
        self, tenant: TenantId, *, start: datetime, end: datetime, part: SpendPart = WHOLE
    ) -> dict[datetime, int]:
        """Gives sums by hour, by its begin; hours without charges are left out. Both times are full hours."""
        ...

    async def since(self, tenant: TenantId, *starts: datetime) -> tuple[int, ...]:
        """Gives what was spent since each of several moments."""
        ...

    async def shares(self, tenant: TenantId, by: Spender, *, hour: datetime, start: datetime) -> Shares:
        """Gives what those who spent most since `hour` spent in it, and from `start` to `hour`."""
        ...

    async def uses(self, tenant: TenantId, *, start: datetime, end: datetime) -> list[Use]:
        """Gives how models were used by day, the dearest uses first. Both times are full days, UTC."""
        ...


class KeptUses(Protocol):
    """Keeps how models were used on days that are over, for `SpendReader.uses`."""

    async def behind(self, *, start: datetime, end: datetime) -> list[tuple[TenantId, datetime | None]]:
        """Lists tenants that used models on a day of these that is not kept, each with the last day that is."""
        ...

    async def keep(self, tenant: TenantId, day: datetime) -> int:
        """Counts the calls of a day that is over; gives how many uses of models they were. Harmless to repeat."""
        ...

    async def forget(self, before: datetime) -> None:
        """Removes earlier days."""
        ...


class WatchedTenants(Protocol):
    """Finds whom to look at."""

    async def spending(self, *, since: datetime) -> list[TenantId]:
        """Lists tenants that were charged since, and those with an open alert, in order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SpikeRule:
    """Has a spike degrade a budget."""

    budget: UUID
    #: For how long after the last news of the spike, seconds; 1 minute to 7 days, or 0 for no rule.
    degrade_seconds: int


class SpendAlerts(Protocol):
    """Keeps a tenant's alerts on spend. At most one of them is open."""

    async def last(self, tenant: TenantId) -> SpendAlert | None:
        """Gives the newest."""
        ...

    async def page(self, tenant: TenantId, *, size: int, after: tuple[datetime, UUID] | None) -> list[SpendAlert]:
        """Lists alerts, newest first, from the one after `after` on."""
        ...

    async def open(self, alert: SpendAlert, *, now: datetime) -> SpendAlert | None:
        """Keeps a new alert, tells of it and degrades budgets by their rules, in one transaction.

        Returns: the alert with the budgets that it degraded; None when another one is open.
        """
        ...

    async def rise(self, alert: SpendAlert, *, now: datetime) -> SpendAlert | None:
        """Notes an alert's new peak and degrades budgets by their rules anew; None when it has changed meanwhile."""
        ...

    async def close(self, alert: SpendAlert) -> SpendAlert | None:
        """Ends an alert and tells of it; None when it has changed meanwhile."""
        ...


class SpikeRules(Protocol):
    """Keeps which budgets unusual spend degrades."""

    async def put(self, tenant: TenantId, rule: SpikeRule) -> SpikeRule:
        """Sets the rule of a budget, with the audit entry and the kept answer; 0 seconds take it away.

        Raises: TooManySpikeRules.
        """
        ...

    async def page(self, tenant: TenantId, *, size: int, after: UUID | None) -> list[SpikeRule]:
        """Lists rules by budget, from the one after `after` on."""
        ...
