"""Builds cost: the only file that names every concrete class."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Final

from comitia.cost.v1.budget_service_pb2_grpc import add_BudgetServiceServicer_to_server
from comitia.cost.v1.forecast_service_pb2_grpc import add_ForecastServiceServicer_to_server
from comitia.cost.v1.ledger_service_pb2_grpc import add_LedgerServiceServicer_to_server
from comitia.cost.v1.pricing_service_pb2_grpc import add_PricingServiceServicer_to_server
from comitia.guard_table import GUARDS
from services.cost.domain.hold import Hold
from services.cost.domain.hold_lines import HoldLines
from services.cost.domain.unknown_price import UnknownPriceRule
from services.cost.prices.snapshot import shipped_prices
from services.cost.settings import CostSettings
from services.cost.storage.alert_retention import AlertRetention
from services.cost.storage.budget_alert_store import BudgetAlertStore
from services.cost.storage.budget_repository import BudgetRepository
from services.cost.storage.hold_retention import HoldRetention
from services.cost.storage.ledger_repository import LedgerRepository
from services.cost.storage.price_repository import PriceImports, PriceRepository
from services.cost.storage.repricing_store import RepricingStore
from services.cost.storage.rollup_store import RollupStore
from services.cost.storage.spend_alert_store import SpendAlertStore
from services.cost.storage.spend_reader import LedgerSpendReader, SpendingTenants
from services.cost.storage.spike_rule_store import SpikeRuleStore
from services.cost.storage.tenant_data import TENANT_DATA
from services.cost.storage.unit_of_work import SpendStore
from services.cost.storage.unknown_price_store import UnknownPriceStore
from services.cost.storage.use_store import UseStore
from services.cost.transport.budget_servicer import BudgetServicer
from services.cost.transport.convert import alert_to_message
from services.cost.transport.forecast_fields import spend_alert_to_message
from services.cost.transport.forecast_servicer import ForecastServicer
from services.cost.transport.ledger_servicer import LedgerServicer
from services.cost.transport.pricing_servicer import PricingServicer
from services.cost.usecases.create_budget import CreateBudget
from services.cost.usecases.expire_holds import ExpireHolds
from services.cost.usecases.export_costs import ExportCosts
from services.cost.usecases.follow_quotas import FollowQuotas
from services.cost.usecases.forecast_spend import ForecastSpend
from services.cost.usecases.forget_alerts import ForgetAlerts
from services.cost.usecases.forget_holds import ForgetHolds
from services.cost.usecases.get_budget import GetBudget
from services.cost.usecases.hold_queue import Asker, Behind, HoldQueue, Item
from services.cost.usecases.import_prices import ImportPrices
from services.cost.usecases.keep_uses import KeepUses
from services.cost.usecases.list_budget_alerts import ListBudgetAlerts
from services.cost.usecases.locked_tenants import LockedTenants
from services.cost.usecases.prices import CurrentPrices, import_prices
from services.cost.usecases.recommend_savings import RecommendSavings
from services.cost.usecases.remove_budget import RemoveBudget
from services.cost.usecases.reprice_events import RepriceEvents
from services.cost.usecases.roll_up import RollUp
from services.cost.usecases.set_budget import SetBudget
from services.cost.usecases.set_budget_limit import SetBudgetLimit
from services.cost.usecases.set_spike_rule import SetSpikeRule
from services.cost.usecases.show_velocity import ShowVelocity
from services.cost.usecases.spend import Spend
from services.cost.usecases.spend_history import SpendHistory
from services.cost.usecases.spend_together import SpendTogether
from services.cost.usecases.unknown_prices import UnknownPrices
from services.cost.usecases.watch_spend import WatchSpend
from services.meshkit.audit.trail import service_audit
from services.meshkit.batching.group_commit import GroupCommit
from services.meshkit.bus.bus import bus
from services.meshkit.bus.subjects import service_stream
from services.meshkit.core.clock import Clock
from services.meshkit.core.ids import IdSource
from services.meshkit.core.money import NanoUsd
from services.meshkit.grpc.server import Server
from services.meshkit.grpc.workload_identity import workload_identity
from services.meshkit.guard.mesh_guard import mesh_guard
from services.meshkit.sql.audit_store import SqlAuditStore
from services.meshkit.sql.database_clock import DatabaseClock, ReadClock, read_clock
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.outbox import OutboxRelay
from services.meshkit.sql.request_ids import ForgetRequests
from services.meshkit.sql.tenant_rows import TenantRows
from services.meshkit.tenant_data.servicer import TenantData

#: Connections of the transactions that all tenants share, and of what tells whose rows are locked.
_GROUPS: Final = 2


@asynccontextmanager
async def cost(
    settings: CostSettings, *, clock: Clock, ids: IdSource, read_clock: ReadClock = read_clock
) -> AsyncGenerator[Server]:
    """Opens what cost needs and gives its server; leaving the block commits what waits and closes everything.

    Args:
        clock: of the machine, for identities and waits. Money goes by that of the database, which replicas share.
        read_clock: reads the latter.
    """
    identity = workload_identity(settings, "cost", clock=clock)
    async with (
        sql_engine(
            settings.database_url.get_secret_value(), pool_size=settings.pool_size, application_name="cost"
        ) as app,
        # One group at a time shares a transaction; that of a tenant which waits for locks is one of `app`.
        sql_engine(
            settings.database_url.get_secret_value(),
            pool_size=_GROUPS,
            lock_timeout_seconds=settings.lock_wait_seconds,
            application_name="cost-spending",
        ) as hasty,
        sql_engine(
            settings.database_url.get_secret_value(),
            pool_size=settings.report_pool_size,
            application_name="cost-reports",
        ) as reports,
        sql_engine(
            settings.maintenance_database_url.get_secret_value(), pool_size=2, application_name="cost-maintenance"
        ) as maintenance,
        bus(settings.nats_url.get_secret_value(), streams=(service_stream("cost"),)) as events,
        service_audit("cost", SqlAuditStore(app=app, maintenance=maintenance), clock=clock) as audit,
        mesh_guard(settings, GUARDS, service="cost", clock=clock, workload=identity, audit=audit) as guard,
    ):
        read = partial(read_clock, maintenance, clock)
        money_clock = DatabaseClock(await read(), read, clock=clock, service="cost")
        relay = OutboxRelay(maintenance, events)
        news = asyncio.Event()
        lines = HoldLines(changed=news.set)
        store = SpendStore(
            app=app,
            hasty=hasty,
            maintenance=maintenance,
            ids=ids,
            tenant_limit=NanoUsd(settings.tenant_limit_nano_usd),
            encode=alert_to_message,
            published=relay.wake,
            moved=lines.moved,
        )
        price_table = PriceRepository(maintenance)
        await import_prices(
            price_table, shipped_prices(), free_providers=settings.free_providers, now=money_clock.now()
        )
        prices = CurrentPrices(price_table, clock=money_clock, refresh_seconds=settings.price_refresh_seconds)
        await prices.refresh()
        unknown = UnknownPrices(
            UnknownPriceStore(app),
            default=UnknownPriceRule[settings.unknown_price.upper()],
            least=settings.unknown_price_least_ceiling_nano_usd_per_million,
        )
        spend = Spend(
            begin=store.begin_hastily,
            begin_patiently=store.begin,
            last_seen=store,
            prices=prices,
            unknown=unknown,
            lines=lines,
            clock=money_clock,
            ids=ids,
        )
        queue = HoldQueue(
            spend=spend,
            lines=lines,
            news=news,
            clock=money_clock,
            most=settings.wait_queue_calls,
            poll_seconds=settings.wait_poll_seconds,
        )
        budgets = BudgetRepository(app)
        get_budget = GetBudget(begin=store.begin, budgets=budgets, clock=money_clock)
        ledger = LedgerRepository(reports)
        reader = LedgerSpendReader(reports)
        history = SpendHistory(reader)
        rules = SpikeRuleStore(app)
        alerts = SpendAlertStore(
            app,
            ids=ids,
            encode=spend_alert_to_message,
            encode_budget=alert_to_message,
            published=relay.wake,
        )
        floor = settings.watch_floor_nano_usd
        forecasts = ForecastServicer(
            velocity=ShowVelocity(reader=reader, history=history, alerts=alerts, clock=money_clock, floor=floor),
            forecast=ForecastSpend(
                ledger=ledger, reader=reader, history=history, get_budget=get_budget, clock=money_clock
            ),
            recommend=RecommendSavings(reader=reader, prices=prices, clock=money_clock),
            set_spike_rule=SetSpikeRule(get_budget=get_budget, rules=rules),
            alerts=alerts,
            rules=rules,
        )
        rollups = RollupStore(maintenance)
        await rollups.follow_cluster()
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
            budget_servicer = BudgetServicer(
                spend=SpendTogether(group, queue),
                together=settings.spend_batch_items,
                create_budget=CreateBudget(budgets=store, clock=money_clock, ids=ids),
                get_budget=get_budget,
                set_budget=SetBudget(begin=store.begin, clock=money_clock),
                set_budget_limit=SetBudgetLimit(begin=store.begin, last_seen=store, clock=money_clock),
                remove_budget=RemoveBudget(begin=store.begin, clock=money_clock),
                list_alerts=ListBudgetAlerts(get_budget=get_budget, alerts=BudgetAlertStore(app)),
                budgets=budgets,
                clock=money_clock,
            )
            yield Server(
                name="cost",
                listen=settings.listen,
                registrations=(
                    partial(add_BudgetServiceServicer_to_server, budget_servicer),
                    partial(
                        add_LedgerServiceServicer_to_server,
                        LedgerServicer(
                            ledger=ledger,
                            export_costs=ExportCosts(ledger=ledger, clock=money_clock),
                            reprice_events=RepriceEvents(
                                repricer=RepricingStore(app, spending=store, new_id=ids.uuid),
                                prices=prices,
                                clock=money_clock,
                            ),
                            clock=money_clock,
                        ),
                    ),
                    partial(
                        add_PricingServiceServicer_to_server,
                        PricingServicer(
                            prices=prices,
                            import_prices=ImportPrices(importer=PriceImports(app), prices=prices, clock=money_clock),
                            unknown=unknown,
                            clock=money_clock,
                        ),
                    ),
                    partial(add_ForecastServiceServicer_to_server, forecasts),
                    TenantData(TenantRows("cost", maintenance, TENANT_DATA), tenants=guard.feed).registration,
                    *guard.registrations,
                ),
                admission=guard.admission,
                tls=identity.tls,
                refusals=audit.refusals,
                background=(
                    money_clock,
                    relay,
                    prices,
                    FollowQuotas(
                        begin=store.begin,
                        tenants=guard.feed,
                        limited=store.limited,
                        default=NanoUsd(settings.tenant_limit_nano_usd),
                        clock=money_clock,
                    ),
                    WatchSpend(
                        tenants=SpendingTenants(maintenance),
                        reader=reader,
                        history=history,
                        alerts=alerts,
                        clock=money_clock,
                        ids=ids,
                        floor=floor,
                        cooldown=timedelta(seconds=settings.watch_cooldown_seconds),
                        every_seconds=settings.watch_seconds,
                    ),
                    ExpireHolds(begin=store.sweep, clock=money_clock, every_seconds=settings.sweep_seconds),
                    RollUp(
                        rollups=rollups,
                        clock=money_clock,
                        every_seconds=settings.rollup_seconds,
                        keep_days=settings.event_days,
                    ),
                    KeepUses(uses=UseStore(maintenance), clock=money_clock),
                    ForgetHolds(holds=HoldRetention(maintenance), clock=money_clock, keep_days=settings.hold_days),
                    ForgetAlerts(alerts=AlertRetention(maintenance), clock=money_clock, keep_days=settings.event_days),
                    ForgetRequests(maintenance, clock=clock),
                    *guard.background,
                ),
                ready=guard.ready,
                metrics_listen=settings.metrics_listen,
                drain_seconds=settings.drain_seconds,
                max_concurrent_calls=settings.max_concurrent_calls,
                clock=clock,
            )
