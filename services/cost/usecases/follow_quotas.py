"""Limits the tenants' own budgets to what the operator lets them spend."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from typing import Final, Protocol

from services.cost.domain.budget import tenant_budget_id
from services.cost.domain.changes import Changes
from services.cost.domain.errors import BudgetNotFound
from services.cost.usecases.ports import BeginWork, SpendNeeds
from services.cost.usecases.report import report
from services.cost.usecases.rounds import failed, for_each
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import TenantId
from services.meshkit.core.money import NanoUsd
from services.meshkit.core.tenant import KnowsTenants, TenantState, rules_of
from services.meshkit.telemetry.logs import logger

_RETRY_SECONDS: Final = 2.0
_FAULT: Final = "quotas of tenants wait"

log = logger(__name__)


class ToldOfTenants(KnowsTenants, Protocol):
    """What is known of tenants, and news of it."""

    def ruled(self) -> tuple[TenantId, ...]:
        """Lists the tenants of which anything is known."""
        ...

    def changed(self, listener: Callable[[TenantId | None], None]) -> AbstractContextManager[None]:
        """Has `listener` called within the block when something changed for a tenant; None stands for all."""
        ...


class FollowQuotas:
    """Limits a tenant's own budget to its quota, each time that a replica hears of it.

    The budget keeps the quota, so whatever another replica hears late, the tenant cannot go beyond it. What the tenant
    has set for itself stays beside it, and holds where the quota lets it.

    Args:
        limited: lists the tenants that had a quota when cost last heard.
        default: limit without a quota of a tenant that never set one.
    """

    def __init__(
        self,
        *,
        begin: BeginWork,
        tenants: ToldOfTenants,
        limited: Callable[[], Awaitable[Iterable[TenantId]]],
        default: NanoUsd,
        clock: Clock,
    ) -> None:
        self._begin = begin
        self._tenants = tenants
        self._limited = limited
        self._default = default
        self._clock = clock
        self._waiting: set[TenantId | None] = set()
        self._awake = asyncio.Event()

    async def __call__(self) -> None:
        """Follows until cancelled; what the database does not take is tried again."""
        with self._tenants.changed(self._hear):
            while True:
                await self._awake.wait()
                self._awake.clear()
                waiting, self._waiting = self._waiting, set()
                try:
                    await for_each("quotas", await self._named(waiting), self._followed, fault=_FAULT)
                except Exception as error:  # noqa: BLE001  # a background loop: it is told, and what was heard is looked at again
                    failed("quotas", _FAULT, error)
                    await self._clock.sleep(_RETRY_SECONDS)
                    for tenant in waiting:
                        self._hear(tenant)

    async def _followed(self, tenant: TenantId) -> None:
        try:
            await self.follow(tenant)
        except Invalid as refusal:
            # Only a quota that is taken off brings a period back, so what it held back stays so until it is set anew.
            log.warning("a tenant's own period does not come back after its quota", cause=refusal.message)

    async def follow(self, tenant: TenantId) -> None:
        """Limits one tenant's budget to its quota; changes nothing when it is so."""
        rules = rules_of(self._tenants, tenant)
        if rules.state in (TenantState.DELETING, TenantState.DELETED):
            return
        quota = NanoUsd(rules.quotas.max_cost_nano_usd)
        mine = frozenset((tenant,))
        # Without a quota there is nothing to limit in a budget that is not there yet.
        spenders = mine if quota else frozenset[TenantId]()
        needs = SpendNeeds(tenants=mine, spenders=spenders, budgets=frozenset((tenant_budget_id(tenant),)))
        try:
            changes = await self._limited_to(tenant, quota, needs)
        except BudgetNotFound:
            return
        if not changes.empty:
            report(changes)
            log.info("a tenant's budget follows its quota")

    async def _limited_to(self, tenant: TenantId, quota: NanoUsd, needs: SpendNeeds) -> Changes:
        async with self._begin((tenant,)) as work:
            book = await work.load(needs, now=self._clock.now())
            recount = book.quota_recounts(tenant, quota, default=self._default)
            charged = None if recount is None else await work.charged(tenant, recount)
            book.set_quota(tenant, quota, default=self._default, charged=charged)
            changes = book.changes()
            if not changes.empty:
                await work.save(changes)
                await work.commit()
        return changes

    async def _named(self, waiting: set[TenantId | None]) -> set[TenantId]:
        named = {tenant for tenant in waiting if tenant is not None}
        if None in waiting:
            named |= {*self._tenants.ruled(), *await self._limited()}
        return named

    def _hear(self, tenant: TenantId | None) -> None:
        self._waiting.add(tenant)
        self._awake.set()
