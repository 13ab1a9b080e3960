"""Limits the tenants' own budgets to what the operator lets them spend."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from typing import Final, Protocol

from services.cost.domain.budget import tenant_budget_id
from services.cost.usecases.ports import BeginWork, SpendNeeds
from services.cost.usecases.report import report
from services.cost.usecases.rounds import passes
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.core.money import NanoUsd
from services.meshkit.core.tenant import KnowsTenants, TenantState, rules_of
from services.meshkit.telemetry.logs import logger

_RETRY_SECONDS: Final = 2.0

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
    """Gives a tenant's own budget the limit of its quota each time that changes, once over all replicas.

    In between the tenant may set a lower limit. Without a quota the budget gets the limit that new ones have.

    Args:
        limited: lists the tenants that had a quota when cost last heard.
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
                    for tenant in await self._named(waiting):
                        await self.follow(tenant)
                except MeshError as error:
                    if not passes(error):
                        raise
                    log.warning("quotas of tenants wait", reason=error.reason)
                    await self._clock.sleep(_RETRY_SECONDS)
                    for tenant in waiting:
                        self._hear(tenant)

    async def follow(self, tenant: TenantId) -> None:
        """Limits one tenant's budget to its quota, unless it was before."""
        rules = rules_of(self._tenants, tenant)
        if rules.state in (TenantState.DELETING, TenantState.DELETED):
            return
        quota = NanoUsd(rules.quotas.max_cost_nano_usd)
        budget = tenant_budget_id(tenant)
        needs = SpendNeeds(tenants=frozenset((tenant,)), spenders=frozenset((tenant,)), budgets=frozenset((budget,)))
        async with self._begin((tenant,)) as work:
            if not await work.took_quota(tenant, quota):
                return
            book = await work.load(needs, now=self._clock.now())
            if quota:
                book.set_quota(tenant, quota)
            else:
                book.set_limit(tenant, budget, self._default)
            changes = book.changes()
            await work.save(changes)
            await work.commit()
        report(changes)
        log.info("a tenant's budget follows its quota")

    async def _named(self, waiting: set[TenantId | None]) -> set[TenantId]:
        named = {tenant for tenant in waiting if tenant is not None}
        if None in waiting:
            named |= {*self._tenants.ruled(), *await self._limited()}
        return named

    def _hear(self, tenant: TenantId | None) -> None:
        self._waiting.add(tenant)
        self._awake.set()
