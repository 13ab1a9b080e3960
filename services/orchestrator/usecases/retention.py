"""How long runs of each tenant stay: by the rules that it set itself, and else as the operator says."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from services.meshkit.core.clock import Clock
from services.meshkit.core.identity import TenantId
from services.meshkit.core.tenant import KnowsTenants, TenantState, rules_of

_LOOK_SECONDS: Final = 1.0
#: Ids of runs name no earlier moment.
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class KnowsRules(KnowsTenants, Protocol):
    """What is known here of the rules of all tenants; the guard feed is one."""

    def ruled(self) -> Sequence[TenantId]:
        """Lists the tenants that `tenant` says something of."""
        ...

    def age(self) -> float:
        """Gives the seconds since the gateway's last word; infinite before the first."""
        ...

    @property
    def is_cut(self) -> bool:
        """True when there are more tenants with rules than are kept: of one that is not there nothing is known."""
        ...


class Retention:
    """Says up to which moment runs must have ended to be archived, or deleted.

    Args:
        keep: how long facts stay out of the archive.
        silent_seconds: without a word of the gateway for so long nobody knows which rules hold.
        own: how long facts of single tenants that say nothing themselves stay out of the archive.
    """

    def __init__(
        self,
        tenants: KnowsRules,
        *,
        clock: Clock,
        keep: timedelta,
        silent_seconds: float,
        own: Mapping[TenantId, timedelta] | None = None,
    ) -> None:
        self._tenants = tenants
        self._clock = clock
        self._keep = keep
        self._silent_seconds = silent_seconds
        self._own: dict[TenantId, timedelta] = dict(own or {})

    async def known(self) -> None:
        """Waits until the rules of all tenants are known as they are now: what is moved or deleted stays so."""
        while self._silent:
            await self._clock.sleep(_LOOK_SECONDS)

    def archived(self) -> tuple[datetime, dict[TenantId, datetime]] | None:
        """Gives the moment for runs to be archived, and those of the tenants that have one of their own.

        None while nobody knows the rules. A tenant whose rules may be among those that are not kept has nothing moved.
        """
        if self._silent:
            return None
        is_cut = self._tenants.is_cut
        ages = {} if is_cut else dict(self._own)
        for tenant in self._tenants.ruled():
            if days := rules_of(self._tenants, tenant).security_policy.archive_after_days:
                ages[tenant] = timedelta(days=days)
            elif is_cut:
                ages[tenant] = self._own.get(tenant, self._keep)
        until = _EPOCH if is_cut else self._before(self._keep)
        return until, {tenant: self._before(age) for tenant, age in ages.items()}

    def deleting(self) -> Sequence[TenantId]:
        """Lists the tenants whose runs are deleted by their age."""
        return [tenant for tenant in self._tenants.ruled() if self.deleted(tenant) is not None]

    def deleted(self, tenant: TenantId) -> datetime | None:
        """Gives the moment for runs of a tenant to be deleted; None when none is now.

        Nothing of a suspended tenant is lost, and one that is erased is erased as a whole.
        """
        rules = rules_of(self._tenants, tenant)
        days = rules.security_policy.delete_runs_after_days
        if not days or rules.state is not TenantState.ACTIVE or self._silent:
            return None
        return self._before(timedelta(days=days))

    @property
    def _silent(self) -> bool:
        return self._tenants.age() > self._silent_seconds

    def _before(self, age: timedelta) -> datetime:
        return max(self._clock.now() - age, _EPOCH)
