"""Builders of money: good defaults, and a test spells out what matters."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from google.protobuf.duration_pb2 import Duration

from comitia.common.v1 import content_pb2, usage_pb2
from comitia.cost.v1 import budget_service_pb2 as pb
from comitia.cost.v1 import cost_pb2
from services.cost.domain.budget import Budget, BudgetId, BudgetScope, tenant_budget_id
from services.cost.domain.hold import CostKind, Hold, HoldId, Purpose
from services.cost.domain.price import Price, Rates, Tier
from services.meshkit.content import CallContext, CallId, Usage
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.core.money import NanoUsd

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ANNA, BERT = TenantId(UUID(int=0xA)), TenantId(UUID(int=0xB))
MINUTE = timedelta(minutes=1)
#: Costs 150 nano-USD a token in and 600 out.
MODEL = "gpt-4o-mini"


def a_price(**changes: object) -> Price:
    values: dict[str, object] = {
        "provider": "openai",
        "model": "gpt-test",
        "tiers": (Tier(0, Rates(input=1_000_000, output=4_000_000, reasoning=4_000_000)),),
        "source": "a test",
    }
    return Price(**{**values, **changes})  # type: ignore[arg-type]


def a_purpose(*, kind: CostKind = CostKind.GENERATE, run_id: str = "run_1", **changes: str) -> Purpose:
    context = CallContext(
        call_id=CallId(run_id=run_id, path="rounds/1/Athena"),
        agent_name=changes.pop("agent_name", "Athena"),
        project=changes.pop("project", ""),
    )
    return Purpose(
        kind=kind, provider=changes.pop("provider", "openai"), model=changes.pop("model", "gpt-test"), context=context
    )


def a_hold(
    amount: int = 10,
    *,
    tenant: TenantId = ANNA,
    budgets: tuple[BudgetId, ...] = (),
    request_id: UUID | None = None,
    price: Price | None = None,
    expires: datetime = NOON + MINUTE,
) -> Hold:
    return Hold(
        id=HoldId(uuid4()),
        tenant=tenant,
        request_id=request_id or uuid4(),
        request_digest=b"asked",
        budgets=tuple(sorted({tenant_budget_id(tenant), *budgets})),
        purpose=a_purpose(),
        bound=Usage(input=amount),
        amount=NanoUsd(amount),
        price=(price or a_price()).digest,
        expires=expires,
        created=NOON,
    )


def a_budget(
    limit: int = 100, *, tenant: TenantId = ANNA, run_id: str | None = None, spent: int = 0, held: int = 0
) -> Budget:
    return Budget(
        id=tenant_budget_id(tenant) if run_id is None else BudgetId(uuid4()),
        tenant=tenant,
        scope=BudgetScope.TENANT if run_id is None else BudgetScope.RUN,
        run_id=run_id,
        limit=NanoUsd(limit),
        spent=NanoUsd(spent),
        held=NanoUsd(held),
        counted_from=NOON,
        created=NOON,
    )


def a_reserve(*, input_tokens: int = 100, output_tokens: int = 50, **changes: Any) -> pb.ReserveRequest:
    """Asks for 100 x 150 + 50 x 600 = 45,000 nano-USD unless told otherwise."""
    context = content_pb2.CallContext(
        call_id=content_pb2.CallId(run_id=changes.pop("run_id", "run_1"), path="rounds/1/Athena"),
        budget_ids=changes.pop("budget_ids", ()),
        agent_name=changes.pop("agent_name", "Athena"),
        project=changes.pop("project", ""),
        parent_steps=changes.pop("parent_steps", ()),
    )
    values: dict[str, Any] = {
        "request_id": str(uuid4()),
        "kind": cost_pb2.COST_KIND_GENERATE,
        "provider": "openai",
        "model": MODEL,
        "bound": usage_pb2.Usage(input_tokens=input_tokens, output_tokens=output_tokens),
        "ttl": Duration(seconds=60),
    }
    return pb.ReserveRequest(context=context, **{**values, **changes})


def a_run_id() -> str:
    return from_uuid("run", uuid4())
