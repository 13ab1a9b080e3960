"""Rows to domain objects and back; pure."""

from collections.abc import Callable
from typing import Any, Protocol

from services.cost.domain.amounts import Gauge
from services.cost.domain.budget import Budget, BudgetId, BudgetScope, Warned
from services.cost.domain.budget_alert import BudgetAlert
from services.cost.domain.changes import Changes
from services.cost.domain.cost_event import CostEvent, CostEventId
from services.cost.domain.hold import CostKind, Hold, HoldId, HoldState, Purpose
from services.cost.domain.period import Period
from services.cost.domain.terms import BudgetMode, Rules
from services.cost.storage.one_trips import GROUPS
from services.meshkit.content import CallContext, CallId, Usage
from services.meshkit.content.usage import USAGE_CLASSES, usage_of
from services.meshkit.core.identity import TenantId
from services.meshkit.core.money import NanoUsd

#: Gives subject and body of the message that tells of an alert.
EncodeAlert = Callable[[BudgetAlert], tuple[str, bytes]]


class Row(Protocol):
    """A row as SQLAlchemy or asyncpg gives it: its values have the types of the columns in `tables.py`.

    Its UUIDs are of asyncpg's own class, which equals, sorts and hashes as the standard one and is faster.
    """

    # Any: a column of any type.
    def __getitem__(self, name: str, /) -> Any: ...


def counts_of(usage: Usage) -> list[int]:
    """Writes token counts in the order of the classes."""
    return [
        usage.input,
        usage.cache_read,
        usage.cache_write_5m,
        usage.cache_write_1h,
        usage.output,
        usage.reasoning,
        usage.audio_in,
        usage.audio_out,
        usage.image,
    ]


def budget_of(row: Row) -> Budget:
    """Reads a budget."""
    return Budget(
        id=BudgetId(row["id"]),
        tenant=TenantId(row["tenant_id"]),
        scope=BudgetScope(row["scope"]),
        run_id=row["run_id"],
        name=row["name"],
        project=row["project"],
        limit=NanoUsd(row["limit_nano_usd"]),
        spent=NanoUsd(row["spent_nano_usd"]),
        held=NanoUsd(row["held_nano_usd"]),
        overrun=NanoUsd(row["overrun_nano_usd"]),
        tokens=_gauge_of(row, "tokens"),
        calls=_gauge_of(row, "calls"),
        wall=_gauge_of(row, "wall_ms"),
        mode=BudgetMode(row["mode"]),
        warn_at=row["warn_at"],
        period=Period(row["period"]),
        zone=row["zone"],
        turn=row["turn_time"],
        counted_from=row["counted_from"],
        quota=NanoUsd(row["quota_nano_usd"]),
        own_limit=None if row["own_limit_nano_usd"] is None else NanoUsd(row["own_limit_nano_usd"]),
        own_rules=_own_rules_of(row),
        exhausted=row["exhausted"],
        warned=Warned(row["warned"]),
        degraded_until=row["degraded_until"],
        removed=row["removed"],
        tree=row["tree"],
        revision=row["revision"],
        created=row["created_time"],
    )


def _own_rules_of(row: Row) -> Rules | None:
    mode = row["own_mode"]
    return None if mode is None else Rules(BudgetMode(mode), Period(row["own_period"]), row["own_zone"])


def _gauge_of(row: Row, name: str) -> Gauge:
    return Gauge(row[f"limit_{name}"], row[f"spent_{name}"], row[f"held_{name}"], row[f"overrun_{name}"])


def definition_of(budget: Budget) -> tuple[object, ...]:
    """Writes a whole budget, in the order of the columns of `DEFINE_BUDGET`."""
    gauges = (value for _, gauge in budget.gauges for value in gauge)
    own_mode, own_period, own_zone = budget.own_rules or (None, None, None)
    return (
        budget.id,
        budget.tenant,
        int(budget.scope),
        budget.run_id,
        budget.name,
        int(budget.mode),
        budget.warn_at,
        int(budget.period),
        budget.zone,
        budget.turn,
        budget.exhausted,
        int(budget.warned),
        budget.degraded_until,
        budget.removed,
        budget.tree,
        budget.revision,
        budget.created,
        budget.counted_from,
        budget.quota,
        budget.own_limit,
        own_mode,
        own_period,
        own_zone,
        *gauges,
    )


def hold_of(row: Row) -> Hold:
    """Reads a hold."""
    return Hold(
        id=HoldId(row["id"]),
        tenant=TenantId(row["tenant_id"]),
        request_id=row["request_id"],
        request_digest=row["request_digest"],
        state=HoldState(row["state"]),
        budgets=tuple(BudgetId(budget) for budget in row["budget_ids"]),
        purpose=_purpose_of(row),
        bound=usage_of(row["bound"]),
        amount=NanoUsd(row["amount_nano_usd"]),
        price=row["price_digest"],
        charged=NanoUsd(row["charged_nano_usd"]),
        usage=None if row["usage"] is None else usage_of(row["usage"]),
        expires=row["expire_time"],
        created=row["created_time"],
        dispatched=row["dispatched_time"],
        charged_at=row["charged_time"],
        fence=row["fence"],
        counts=row["counts"],
        ceiling=row["ceiling_nano_usd_per_million"],
    )


def cost_event_of(row: Row) -> CostEvent:
    """Reads an entry of the ledger."""
    return CostEvent(
        id=CostEventId(row["id"]),
        tenant=TenantId(row["tenant_id"]),
        hold=HoldId(row["hold_id"]),
        purpose=_purpose_of(row),
        usage=Usage(**{name: int(row[f"{name}_tokens"]) for name in USAGE_CLASSES}),
        cost=NanoUsd(row["cost_nano_usd"]),
        assumed=row["assumed"],
        reversal=row["reversal"],
        price=row["price_digest"],
        created=row["created_time"],
        note=row["note"],
    )


def _purpose_of(row: Row) -> Purpose:
    return Purpose(
        kind=CostKind(row["kind"]),
        provider=row["provider"],
        model=row["model"],
        context=CallContext(
            call_id=CallId(
                run_id=row["run_id"], path=row["path"], attempt_group=row["attempt_group"], index=row["call_index"]
            ),
            agent_name=row["agent_name"],
            agent_version=row["agent_version"],
            project=row["project"],
        ),
    )


def arrays_of(changes: Changes, encode: EncodeAlert) -> list[list[object]]:
    """Writes changes as the arguments of `WRITE_SPENDING`: one array per column of each of its groups."""
    groups: tuple[list[tuple[object, ...]], ...] = (
        [_seen_row(budget) for budget in changes.seen_budgets],
        [(hold.id, int(hold.state), hold.expires, hold.fence, hold.dispatched) for hold in changes.seen_holds],
        [_hold_row(hold) for hold in changes.new_holds],
        [_budget_row(budget) for budget in changes.budgets],
        [_changed_row(hold) for hold in changes.holds],
        [_entry_row(entry) for entry in changes.entries],
        [_alert_row(alert, encode) for alert in changes.alerts],
    )
    arrays: list[list[object]] = []
    for columns, rows in zip(GROUPS.values(), groups, strict=True):
        arrays += map(list, zip(*rows, strict=True)) if rows else ([] for _ in columns)
    return arrays


def _alert_row(alert: BudgetAlert, encode: EncodeAlert) -> tuple[object, ...]:
    subject, body = encode(alert)
    return (alert.id, alert.budget.tenant, alert.budget.id, alert.at, subject, body)


def _seen_row(budget: Budget) -> tuple[object, ...]:
    money = (budget.limit, budget.spent, budget.held, budget.overrun)
    return (budget.id, budget.revision, *money, budget.exhausted)


def _budget_row(budget: Budget) -> tuple[object, ...]:
    return (
        *_seen_row(budget),
        *budget.tokens[1:],
        *budget.calls[1:],
        *budget.wall[1:],
        budget.turn,
        budget.counted_from,
        int(budget.warned),
        budget.tree,
        budget.own_limit,
    )


def limit_values(seen: Budget, changed: Budget) -> tuple[object, ...]:
    """Writes a changed limit of money as the arguments of `LIMIT_BUDGET`."""
    after = (
        changed.revision,
        changed.limit,
        changed.overrun,
        changed.exhausted,
        int(changed.warned),
        changed.own_limit,
    )
    return (*_seen_row(seen), *after)


def _changed_row(hold: Hold) -> tuple[object, ...]:
    usage, times = _usage_literal(hold.usage), (hold.expires, hold.dispatched, hold.charged_at)
    return (hold.id, int(hold.state), hold.charged, usage, *times, hold.fence)


def _hold_row(hold: Hold) -> tuple[object, ...]:
    context = hold.purpose.context
    call = context.call_id
    return (
        hold.id,
        hold.tenant,
        hold.request_id,
        hold.request_digest,
        int(hold.state),
        f"{{{','.join(map(str, hold.budgets))}}}",
        int(hold.purpose.kind),
        hold.purpose.provider,
        hold.purpose.model,
        call.run_id,
        call.path,
        call.attempt_group,
        call.index,
        context.agent_name,
        context.agent_version,
        context.project,
        _usage_literal(hold.bound),
        _usage_literal(hold.usage),
        hold.amount,
        hold.charged,
        hold.price,
        hold.expires,
        hold.created,
        hold.dispatched,
        hold.charged_at,
        hold.fence,
        hold.counts,
        hold.ceiling,
    )


def _entry_row(entry: CostEvent) -> tuple[object, ...]:
    tokens = _usage_literal(entry.usage)
    return (entry.id, entry.hold, tokens, entry.cost, entry.assumed, entry.reversal, entry.created)


def _usage_literal(usage: Usage | None) -> str | None:
    """Writes token counts as the literal of an array of integers."""
    return None if usage is None else f"{{{','.join(map(str, counts_of(usage)))}}}"
