"""Reads what people say of budgets, and writes what is shown of them; pure."""

from collections.abc import Iterable
from datetime import datetime
from typing import Final, Literal, cast

from comitia.cost.v1 import budget_service_pb2 as pb
from comitia.cost.v1 import cost_pb2
from services.cost.domain.budget import (
    Budget,
    BudgetId,
    BudgetScope,
    checked_limit,
    tenant_budget_id,
)
from services.cost.domain.budget_status import level_of, projected
from services.cost.domain.budget_tree import Place
from services.cost.domain.node import BESIDE, MOST_LEVELS, NodeKey
from services.cost.domain.period import Period, checked_zone
from services.cost.domain.terms import WARN_AT, BudgetMode, Terms, TermsChange
from services.cost.transport import convert, fields
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Principal, TenantId
from services.meshkit.core.ids import from_uuid, to_uuid
from services.meshkit.core.money import NanoUsd
from services.meshkit.core.paging import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, clamp_page_size

_MOST_NAME: Final = 200
_MOST_PATH: Final = 1024
#: Name of the tenant's own budget in requests.
_OWN: Final = "tenant"
_NAMED: Final = {
    "project": BudgetScope.PROJECT,
    "agent": BudgetScope.AGENT,
    "step": BudgetScope.STEP,
    "run": BudgetScope.RUN,
}
_SCOPES: Final = {int(scope): scope for scope in BudgetScope}
_MODES: Final = {0: BudgetMode.HARD, **{int(mode): mode for mode in BudgetMode}}
_PERIODS: Final = {int(period): period for period in Period}
#: Terms by their fields in requests.
_TERMS: Final = {
    "limit_nano_usd": "limit",
    "limit_tokens": "tokens",
    "limit_calls": "calls",
    "limit_wall_ms": "wall_ms",
    "mode": "mode",
    "warn_at_percent": "warn_at",
    "period": "period",
    "zone": "zone",
}
_Limit = Literal["limit_tokens", "limit_calls", "limit_wall_ms"]


def to_budget(text: str, tenant: TenantId) -> BudgetId | NodeKey:
    """Reads which budget is meant, by its id or by name. Raises: Invalid."""
    if text == _OWN:
        return tenant_budget_id(tenant)
    kind, colon, name = text.partition(":")
    if not colon:
        return BudgetId(to_uuid(text, "budget", field="budget_id"))
    scope = _NAMED.get(kind)
    if scope is None:
        raise Invalid("budget_id", "must be `budget_…`, `tenant`, or begin with project:, agent:, run: or step:")
    return NodeKey(scope, _name(scope, name, field="budget_id"))


def to_project(request: pb.CreateBudgetRequest, principal: Principal) -> str | None:
    """Reads which project a run is of; None where the caller does not say. Raises: Invalid."""
    if not request.HasField("project"):
        return None
    # As with calls: a token bound to a project counts for that project, whatever the caller says.
    return principal.project or fields.text_of(request.project, "project", most=_MOST_NAME)


def to_most_runs(request: pb.GetBudgetTreeRequest) -> int:
    """Reads how many runs to show. Raises: Invalid."""
    if request.most_runs < 0:
        raise Invalid("most_runs", f"must be 0 (default {DEFAULT_PAGE_SIZE}) to {MAX_PAGE_SIZE}")
    return clamp_page_size(request.most_runs)


def to_scope(scope: int) -> BudgetScope | None:
    """Reads an optional scope. Raises: Invalid."""
    if scope and scope not in _SCOPES:
        raise Invalid("scope", "must be one of TENANT, RUN, PROJECT, STEP, AGENT")
    return _SCOPES.get(scope)


def to_node(request: pb.SetBudgetRequest) -> NodeKey:
    """Reads which budget is set. Raises: Invalid."""
    scope = to_scope(request.scope)
    if scope is BudgetScope.TENANT:
        if request.name:
            raise Invalid("name", "must be empty for the tenant's own budget")
        return NodeKey(scope, "")
    if scope is None or scope not in BESIDE:
        raise Invalid("scope", "must be one of TENANT, PROJECT, AGENT, STEP; SetBudgetLimit changes that of a run")
    return NodeKey(scope, _name(scope, request.name, field="name"))


def to_limit(request: pb.SetBudgetLimitRequest) -> NanoUsd:
    """Reads the new limit of a budget. Raises: Invalid (also when there is none: that is not 0)."""
    if not request.HasField("limit_nano_usd"):
        raise Invalid("limit_nano_usd", "is required; 0 lets nothing more be spent")
    return checked_limit(request.limit_nano_usd, least=0)


def to_change(request: pb.SetBudgetRequest) -> TermsChange:
    """Reads what changes of a budget: what the mask names, or else what is set. Raises: Invalid."""
    paths = set(request.update_mask.paths) if request.HasField("update_mask") else _set_paths(request)
    for path in sorted(paths - _TERMS.keys()):
        raise Invalid("update_mask", f"{path[:100]!r} cannot be changed; what can be is " + ", ".join(_TERMS))
    mode, period = _MODES.get(request.mode), _PERIODS.get(request.period)
    if mode is None:
        raise Invalid("mode", "must be one of HARD, SOFT, DEGRADE")
    if period is None:
        raise Invalid("period", "must be one of HOUR, DAY, WEEK, MONTH, or absent")
    if not 0 <= request.warn_at_percent <= 100:
        raise Invalid("warn_at_percent", "must be 1 to 100, or 0 for 80")
    if "limit_nano_usd" in paths and not request.HasField("limit_nano_usd"):
        raise Invalid("limit_nano_usd", "cannot be taken off; every budget limits money")
    terms = Terms(
        limit=checked_limit(request.limit_nano_usd, least=0),
        tokens=_limit(request, "limit_tokens", "tokens"),
        calls=_limit(request, "limit_calls", "calls"),
        wall_ms=_limit(request, "limit_wall_ms", "milliseconds"),
        mode=mode,
        warn_at=request.warn_at_percent or WARN_AT,
        period=period,
        zone=checked_zone(request.zone, field="zone"),
    )
    return TermsChange(named=frozenset(_TERMS[path] for path in paths), to=terms)


def status_to_proto(budget: Budget, now: datetime) -> pb.GetBudgetStatusResponse:
    """Writes how full a budget is."""
    gauges = (("tokens", budget.tokens), ("calls", budget.calls), ("wall_ms", budget.wall))
    return pb.GetBudgetStatusResponse(
        budget=convert.budget_to_proto(budget),
        level=cast(cost_pb2.BudgetLevel.ValueType, int(level_of(budget, now))),
        left_nano_usd=budget.left,
        **{f"left_{name}": gauge.left for name, gauge in gauges if gauge.limit is not None},
        hold_count=budget.calls.held,
        period_start_time=None if budget.turn is None else fields.timestamp_of(budget.began),
        projected_nano_usd=projected(budget, now),
    )


def tree_to_proto(places: Iterable[Place], *, more_runs: bool, steps_left_out: int) -> pb.GetBudgetTreeResponse:
    """Writes a tree."""
    nodes = [
        pb.GetBudgetTreeResponse.Node(
            budget=convert.budget_to_proto(place.budget),
            parent_budget_id="" if place.parent is None else from_uuid("budget", place.parent),
            depth=place.depth,
        )
        for place in places
    ]
    return pb.GetBudgetTreeResponse(nodes=nodes, more_runs=more_runs, left_out_step_count=steps_left_out)


def _set_paths(request: pb.SetBudgetRequest) -> set[str]:
    return {field.name for field, _ in request.ListFields()} & _TERMS.keys()


def _limit(request: pb.SetBudgetRequest, field: _Limit, unit: str) -> int | None:
    return checked_limit(getattr(request, field), least=0, field=field, unit=unit) if request.HasField(field) else None


def _name(scope: BudgetScope, name: str, *, field: str) -> str:
    if scope is BudgetScope.RUN:
        to_uuid(name, "run", field=field)
        return name
    if scope is not BudgetScope.STEP:
        return fields.text_of(name, field, most=_MOST_NAME, required=True)
    run_id, _, path = fields.text_of(name, field, most=_MOST_PATH, required=True).partition("/")
    to_uuid(run_id, "run", field=field)
    levels = path.split("/")
    if not all(levels) or len(levels) > MOST_LEVELS:
        raise Invalid(field, f"must be a run and a path of 1 to {MOST_LEVELS} levels, such as run_…/rounds/2")
    return name
