"""Proto to domain and back, both ways; pure."""

from dataclasses import replace
from datetime import timedelta
from typing import Final, cast

from comitia.common.v1 import content_pb2, usage_pb2
from comitia.cost.v1 import budget_service_pb2 as pb
from comitia.cost.v1 import cost_pb2
from services.cost.domain.amounts import Gauge, Measure
from services.cost.domain.budget import Budget, BudgetId
from services.cost.domain.budget_alert import AlertCause, BudgetAlert
from services.cost.domain.hold import MOST_LIFE, CostKind, Hold, HoldId, Purpose
from services.cost.domain.price import Price
from services.cost.transport import fields
from services.cost.usecases.ports import KeptAlert
from services.cost.usecases.spend import Dispatch, Extend, Operation, Release, Reserve, Settle
from services.meshkit.content import CallContext, Usage
from services.meshkit.content.proto import context_from_proto, usage_from_proto, write_call_id
from services.meshkit.content.received_context import check_parent_steps
from services.meshkit.content.usage import MOST_TOKENS, USAGE_CLASSES
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Principal
from services.meshkit.core.ids import from_uuid, to_uuid
from services.meshkit.core.money import NanoUsd

_NO_WAIT: Final = timedelta()
_MOST_BUDGETS: Final = 16
_MOST_NAME: Final = 200
_KINDS: Final = {int(kind): kind for kind in CostKind}
#: Calls of language models, of which there are cheaper ones.
_WITH_CHEAPER: Final = (CostKind.GENERATE, CostKind.JUDGE)
_CAUSES: Final = {
    AlertCause.EXHAUSTED: cost_pb2.BUDGET_ALERT_CAUSE_EXHAUSTED,
    AlertCause.OVERRUN: cost_pb2.BUDGET_ALERT_CAUSE_OVERRUN,
    AlertCause.WARNED: cost_pb2.BUDGET_ALERT_CAUSE_WARNED,
    AlertCause.DEGRADED: cost_pb2.BUDGET_ALERT_CAUSE_DEGRADED,
}
_MEASURES: Final = {
    Measure.MONEY: cost_pb2.BUDGET_MEASURE_MONEY,
    Measure.TOKENS: cost_pb2.BUDGET_MEASURE_TOKENS,
    Measure.CALLS: cost_pb2.BUDGET_MEASURE_CALLS,
    Measure.WALL_TIME: cost_pb2.BUDGET_MEASURE_WALL_TIME,
}


# --- requests --------------------------------------------------------------------------------------------------------


def to_operation(item: pb.BatchSpendRequest.Item, principal: Principal, *, left: float | None = None) -> Operation:
    """Reads an item of a batch stream, whose sender waits for so many seconds. Raises: Invalid."""
    match item.WhichOneof("operation"):
        case "reserve":
            return to_reserve(item.reserve, principal, left=left)
        case "mark_dispatched":
            return to_dispatch(item.mark_dispatched, principal)
        case "extend":
            return to_extend(item.extend, principal)
        case "settle":
            return to_settle(item.settle, principal)
        case "release":
            return to_release(item.release, principal)
        case _:
            raise Invalid("operation", "must be one of reserve, mark_dispatched, extend, settle, release")


def to_reserve(request: pb.ReserveRequest, principal: Principal, *, left: float | None = None) -> Reserve:
    """Reads what to hold, for a sender who waits for so many seconds. Raises: Invalid."""
    kind = _KINDS.get(request.kind)
    if kind is None:
        raise Invalid("kind", "must be one of GENERATE, EMBED, TOOL, MEMORY, JUDGE")
    flat = kind.flat
    if request.tool_cost_nano_usd < 0:
        raise Invalid("tool_cost_nano_usd", "must not be negative")
    if request.tool_cost_nano_usd and not flat:
        raise Invalid("tool_cost_nano_usd", "must be 0 for models, whose price comes from the price table")
    if not flat and not request.HasField("bound"):
        raise Invalid("bound", "is required for models; a call that cannot be bounded cannot be held")
    context = _context(request.context, principal)
    return Reserve(
        tenant=principal.tenant,
        request_id=fields.uuid_of(request.request_id, "request_id"),
        purpose=Purpose(
            kind=kind,
            provider=fields.text_of(request.provider, "provider", most=_MOST_NAME, required=True),
            model=fields.text_of(request.model, "model", most=_MOST_NAME, required=True),
            context=context,
        ),
        budgets=_budgets(context),
        bound=Usage() if flat else _usage(request.bound, "bound"),
        tool_cost=NanoUsd(request.tool_cost_nano_usd),
        ttl=fields.ttl_of(request.ttl),
        dispatched=request.dispatched,
        # A tool or an embedding has no cheaper form.
        cheapest=request.cheapest or kind not in _WITH_CHEAPER,
        fence=_fence(request.fence),
        wait=fields.wait_of(request.wait) if request.HasField("wait") else _NO_WAIT,
        left=None if left is None else timedelta(seconds=left),
    )


def to_dispatch(request: pb.MarkDispatchedRequest, principal: Principal) -> Dispatch:
    """Reads which hold is about to leave. Raises: Invalid."""
    return Dispatch(tenant=principal.tenant, hold=_hold_id(request.hold_id), fence=_fence(request.fence))


def to_extend(request: pb.ExtendRequest, principal: Principal) -> Extend:
    """Reads which hold is to live longer. Raises: Invalid."""
    return Extend(
        tenant=principal.tenant,
        hold=_hold_id(request.hold_id),
        life=fields.ttl_of(request.ttl, most=MOST_LIFE),
        fence=_fence(request.fence),
    )


def to_settle(request: pb.SettleRequest, principal: Principal) -> Settle:
    """Reads what a call used. Raises: Invalid."""
    return Settle(
        tenant=principal.tenant,
        hold=_hold_id(request.hold_id),
        usage=_usage(request.usage, "usage") if request.HasField("usage") else None,
        fence=_fence(request.fence),
    )


def to_release(request: pb.ReleaseRequest, principal: Principal) -> Release:
    """Reads which hold to free. Raises: Invalid."""
    return Release(
        tenant=principal.tenant,
        hold=_hold_id(request.hold_id),
        dispatched_unbilled=request.dispatched_unbilled,
        fence=_fence(request.fence),
    )


def _fence(given: int) -> int:
    if given < 0:
        raise Invalid("fence", "must not be negative; 0 is none")
    return given


def _hold_id(text: str) -> HoldId:
    return HoldId(to_uuid(text, "hold", field="hold_id"))


def _usage(message: usage_pb2.Usage, field: str) -> Usage:
    usage = usage_from_proto(message, field=field)
    if usage.total <= MOST_TOKENS:
        return usage
    for name in USAGE_CLASSES:
        if getattr(usage, name) > MOST_TOKENS:
            raise Invalid(f"{field}.{name}_tokens", f"must be at most {MOST_TOKENS}")
    return usage


def _context(message: content_pb2.CallContext, principal: Principal) -> CallContext:
    context = context_from_proto(message)
    call = context.call_id
    fields.text_of(call.run_id, "context.call_id.run_id", most=_MOST_NAME, required=True)
    fields.text_of(call.path, "context.call_id.path", most=1024)
    fields.text_of(context.agent_name, "context.agent_name", most=_MOST_NAME)
    fields.text_of(context.agent_version, "context.agent_version", most=_MOST_NAME)
    fields.text_of(context.project, "context.project", most=_MOST_NAME)
    check_parent_steps(context)
    # A token bound to a project counts for that project, whatever the caller says.
    return context if principal.project is None else replace(context, project=principal.project)


def _budgets(context: CallContext) -> tuple[BudgetId, ...]:
    if len(context.budget_ids) > _MOST_BUDGETS:
        raise Invalid("context.budget_ids", f"must name at most {_MOST_BUDGETS} budgets")
    return tuple(
        BudgetId(to_uuid(name, "budget", field=f"context.budget_ids[{index}]"))
        for index, name in enumerate(context.budget_ids)
    )


# --- answers ---------------------------------------------------------------------------------------------------------


def hold_to_proto(hold: Hold) -> cost_pb2.Hold:
    """Writes a hold."""
    message = cost_pb2.Hold()
    write_hold(hold, message)
    return message


def write_hold(hold: Hold, message: cost_pb2.Hold) -> None:
    """Writes a hold into an empty message, at a fourth of what messages made of messages cost."""
    message.hold_id = from_uuid("hold", hold.id)
    message.state = cast(cost_pb2.HoldState.ValueType, int(hold.state))
    message.amount_nano_usd = hold.amount
    message.charged_nano_usd = hold.charged
    fields.write_time(hold.expires, message.expire_time)
    write_call_id(hold.purpose.context.call_id, message.call_id)
    message.budget_ids.extend([from_uuid("budget", budget) for budget in hold.budgets])
    message.fence = hold.fence


def budget_to_proto(budget: Budget) -> cost_pb2.Budget:
    """Writes a budget."""
    return cost_pb2.Budget(
        budget_id=from_uuid("budget", budget.id),
        scope=cast(cost_pb2.BudgetScope.ValueType, int(budget.scope)),
        run_id=budget.run_id or "",
        limit_nano_usd=budget.limit,
        spent_nano_usd=budget.spent,
        held_nano_usd=budget.held,
        overrun_nano_usd=budget.overrun,
        create_time=fields.timestamp_of(budget.created),
        name=budget.name,
        project=budget.project or "",
        mode=cast(cost_pb2.BudgetMode.ValueType, int(budget.mode)),
        warn_at_percent=budget.warn_at,
        period=cast(cost_pb2.BudgetPeriod.ValueType, int(budget.period)),
        zone=budget.zone if budget.period else "",
        period_end_time=None if budget.turn is None else fields.timestamp_of(budget.turn),
        tokens=_gauge(budget.tokens),
        calls=_gauge(budget.calls),
        wall_ms=_gauge(budget.wall),
        degraded_until_time=None if budget.degraded_until is None else fields.timestamp_of(budget.degraded_until),
    )


def _gauge(gauge: Gauge) -> cost_pb2.BudgetGauge:
    return cost_pb2.BudgetGauge(limit=gauge.limit, spent=gauge.spent, held=gauge.held, overrun=gauge.overrun)


def prices_to_proto(price: Price) -> list[cost_pb2.Price]:
    """Writes a price, one message per tier."""
    return [
        cost_pb2.Price(
            provider=price.provider,
            model=price.model,
            aliases=price.aliases,
            start_time=fields.timestamp_of(price.start),
            end_time=None if price.end is None else fields.timestamp_of(price.end),
            **{f"{name}_nano_usd_per_million": getattr(tier.rates, name) for name in USAGE_CLASSES},
            source=price.source,
            digest=price.digest.hex(),
            min_prompt_tokens=tier.min_prompt_tokens,
        )
        for tier in price.tiers
    ]


def alert_to_message(alert: BudgetAlert) -> tuple[str, bytes]:
    """Writes an alert as the subject and body of a message."""
    body = cost_pb2.BudgetAlert(
        budget=budget_to_proto(alert.budget),
        cause=_CAUSES[alert.cause],
        create_time=fields.timestamp_of(alert.at),
        tenant_id=from_uuid("tenant", alert.budget.tenant),
        alert_id=from_uuid("alert", alert.id),
        measure=_MEASURES[alert.measure],
        run_id=alert.run_id,
        quota_nano_usd=alert.budget.quota,
    )
    return f"comitia.cost.budget.{alert.cause}.v1.{alert.budget.tenant}", body.SerializeToString()


def alert_to_proto(alert: KeptAlert) -> cost_pb2.BudgetAlert:
    """Reads an alert as it was told."""
    return cost_pb2.BudgetAlert.FromString(alert.body)
