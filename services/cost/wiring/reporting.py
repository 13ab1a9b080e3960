"""Puts together what tells of money: the ledger and its sums, re-pricing, forecasts, the watch over spend."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from comitia.cost.v1.forecast_service_pb2_grpc import add_ForecastServiceServicer_to_server
from comitia.cost.v1.ledger_service_pb2_grpc import add_LedgerServiceServicer_to_server
from services.cost.storage.ledger_repository import LedgerRepository
from services.cost.storage.repricing_store import RepricingStore
from services.cost.storage.rollup_store import RollupStore
from services.cost.storage.spend_alert_store import SpendAlertStore
from services.cost.storage.spend_reader import LedgerSpendReader, SpendingTenants
from services.cost.storage.spike_rule_store import SpikeRuleStore
from services.cost.storage.use_store import UseStore
from services.cost.transport.convert import alert_to_message
from services.cost.transport.forecast_fields import spend_alert_to_message
from services.cost.transport.forecast_servicer import ForecastServicer
from services.cost.transport.ledger_servicer import LedgerServicer
from services.cost.usecases.export_costs import ExportCosts
from services.cost.usecases.forecast_spend import ForecastSpend
from services.cost.usecases.keep_uses import KeepUses
from services.cost.usecases.recommend_savings import RecommendSavings
from services.cost.usecases.reprice_events import RepriceEvents
from services.cost.usecases.roll_up import RollUp
from services.cost.usecases.set_spike_rule import SetSpikeRule
from services.cost.usecases.show_velocity import ShowVelocity
from services.cost.usecases.spend_history import SpendHistory
from services.cost.usecases.watch_spend import WatchSpend
from services.cost.wiring.ground import Ground
from services.cost.wiring.pricing import Pricing
from services.cost.wiring.spending import Spending
from services.meshkit.grpc.server import Background, Registration


@dataclass(frozen=True, slots=True, kw_only=True)
class Reporting:
    """What tells of money, and what keeps its sums."""

    registrations: Sequence[Registration]
    background: Sequence[Background]


async def reporting(on: Ground, prices: Pricing, spending: Spending) -> Reporting:
    """Builds it."""
    settings, clock = on.settings, on.clock
    ledger = LedgerRepository(on.reports)
    ledgers = LedgerServicer(
        ledger=ledger,
        export_costs=ExportCosts(ledger=ledger, clock=clock),
        reprice_events=RepriceEvents(
            repricer=RepricingStore(on.app, spending=spending.store, new_id=on.ids.uuid),
            prices=prices.current,
            clock=clock,
        ),
        clock=clock,
    )
    reader = LedgerSpendReader(on.reports)
    history = SpendHistory(reader)
    rules = SpikeRuleStore(on.app)
    alerts = SpendAlertStore(
        on.app,
        ids=on.ids,
        encode=spend_alert_to_message,
        encode_budget=alert_to_message,
        published=on.relay.wake,
    )
    floor, get_budget = settings.watch_floor_nano_usd, spending.get_budget
    forecasts = ForecastServicer(
        velocity=ShowVelocity(reader=reader, history=history, alerts=alerts, clock=clock, floor=floor),
        forecast=ForecastSpend(ledger=ledger, reader=reader, history=history, get_budget=get_budget, clock=clock),
        recommend=RecommendSavings(reader=reader, prices=prices.current, clock=clock),
        set_spike_rule=SetSpikeRule(get_budget=get_budget, rules=rules),
        alerts=alerts,
        rules=rules,
    )
    rollups = RollupStore(on.maintenance)
    await rollups.follow_cluster()
    return Reporting(
        registrations=(
            partial(add_LedgerServiceServicer_to_server, ledgers),
            partial(add_ForecastServiceServicer_to_server, forecasts),
        ),
        background=(
            WatchSpend(
                tenants=SpendingTenants(on.maintenance),
                reader=reader,
                history=history,
                alerts=alerts,
                clock=clock,
                ids=on.ids,
                floor=floor,
                cooldown=timedelta(seconds=settings.watch_cooldown_seconds),
                every_seconds=settings.watch_seconds,
            ),
            RollUp(rollups=rollups, clock=clock, every_seconds=settings.rollup_seconds, keep_days=settings.event_days),
            KeepUses(uses=UseStore(on.maintenance), clock=clock),
        ),
    )
