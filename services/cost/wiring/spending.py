"""Puts together what holds and charges money: budgets, the group commit of calls, those that wait."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from comitia.cost.v1.budget_service_pb2_grpc import add_BudgetServiceServicer_to_server
from services.cost.domain.hold import Hold
from services.cost.domain.hold_lines import HoldLines
from services.cost.storage.alert_retention import AlertRetention
from services.cost.storage.budget_alert_store import BudgetAlertStore
from services.cost.storage.budget_repository import BudgetRepository
from services.cost.storage.hold_retention import HoldRetention
from services.cost.storage.unit_of_work import SpendStore
from services.cost.transport.budget_servicer import BudgetServicer
from services.cost.transport.convert import alert_to_message
from services.cost.usecases.askers import Asker, Behind, Item
from services.cost.usecases.create_budget import CreateBudget
from services.cost.usecases.expire_holds import ExpireHolds
from services.cost.usecases.follow_quotas import FollowQuotas
from services.cost.usecases.forget_alerts import ForgetAlerts
from services.cost.usecases.forget_holds import ForgetHolds
from services.cost.usecases.get_budget import GetBudget
from services.cost.usecases.hold_queue import HoldQueue
from services.cost.usecases.list_budget_alerts import ListBudgetAlerts
from services.cost.usecases.locked_tenants import LockedTenants
from services.cost.usecases.remove_budget import RemoveBudget
from services.cost.usecases.set_budget import SetBudget
from services.cost.usecases.set_budget_limit import SetBudgetLimit
from services.cost.usecases.spend import Spend
from services.cost.usecases.spend_together import SpendTogether
from services.cost.wiring.ground import Ground
from services.cost.wiring.pricing import Pricing
from services.meshkit.batching.group_commit import GroupCommit
from services.meshkit.core.money import NanoUsd
from services.meshkit.grpc.server import Background, Registration


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """What serves budgets and holds."""

    registration: Registration
    store: SpendStore
    get_budget: GetBudget
    background: Sequence[Background]


@asynccontextmanager
async def spending(on: Ground, prices: Pricing) -> AsyncGenerator[Spending]:
    """Opens it; leaving the block ends all waits and commits what is queued."""
    settings, clock = on.settings, on.clock
    news = asyncio.Event()
    lines = HoldLines(changed=news.set)
    tenant_limit = NanoUsd(settings.tenant_limit_nano_usd)
    store = SpendStore(
        app=on.app,
        hasty=on.hasty,
        maintenance=on.maintenance,
        ids=on.ids,
        tenant_limit=tenant_limit,
        encode=alert_to_message,
        published=on.relay.wake,
        moved=lines.moved,
    )
    spend = Spend(
        begin=store.begin_hastily,
        begin_patiently=store.begin,
        last_seen=store,
        prices=prices.current,
        unknown=prices.unknown,
        lines=lines,
        clock=clock,
        ids=on.ids,
    )
    queue = HoldQueue(
        spend=spend,
        lines=lines,
        news=news,
        clock=clock,
        most=settings.wait_queue_calls,
        poll_seconds=settings.wait_poll_seconds,
    )
    async with (
        LockedTenants(
            queue.commit,
            foresee=queue.foresee,
            unlocked=store.unlocked,
            at_once=settings.pool_size // 2,
            most=settings.spend_queue_items,
        ) as locked,
        GroupCommit[Item, Hold | Asker | Behind](
            locked.commit,
            name="cost.spend",
            max_items=settings.spend_batch_items,
            max_waiting=settings.spend_queue_items,
            ahead=settings.spend_batch_items // 2,
        ) as group,
        queue.over(group),
    ):
        budgets = BudgetRepository(on.app)
        get_budget = GetBudget(begin=store.begin, budgets=budgets, clock=clock)
        servicer = BudgetServicer(
            spend=SpendTogether(group, queue),
            together=settings.spend_batch_items,
            create_budget=CreateBudget(budgets=store, clock=clock, ids=on.ids),
            get_budget=get_budget,
            set_budget=SetBudget(begin=store.begin, clock=clock),
            set_budget_limit=SetBudgetLimit(begin=store.begin, last_seen=store, clock=clock),
            remove_budget=RemoveBudget(begin=store.begin, clock=clock),
            list_alerts=ListBudgetAlerts(get_budget=get_budget, alerts=BudgetAlertStore(on.app)),
            budgets=budgets,
            clock=clock,
        )
        yield Spending(
            registration=partial(add_BudgetServiceServicer_to_server, servicer),
            store=store,
            get_budget=get_budget,
            background=(
                FollowQuotas(
                    begin=store.begin, tenants=on.guard.feed, limited=store.limited, default=tenant_limit, clock=clock
                ),
                ExpireHolds(begin=store.sweep, clock=clock, every_seconds=settings.sweep_seconds),
                ForgetHolds(holds=HoldRetention(on.maintenance), clock=clock, keep_days=settings.hold_days),
                ForgetAlerts(alerts=AlertRetention(on.maintenance), clock=clock, keep_days=settings.event_days),
            ),
        )
