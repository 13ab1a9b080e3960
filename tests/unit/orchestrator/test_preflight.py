"""What becomes of runs that may not fit their budgets."""

import pytest

from comitia.orchestrator.v1 import agent_pb2, estimate_pb2, journal_pb2, workflow_pb2
from services.meshkit.core.errors import PermissionDenied, Unavailable
from services.meshkit.core.identity import Caller, Principal
from services.meshkit.core.money import NANO_PER_USD, NanoUsd
from services.meshkit.core.secret import Secret
from services.meshkit.testing.mesh_keys import TENANT
from services.orchestrator.domain.errors import EstimateExceedsBudget, EstimateNotPriced, PreflightUnavailable
from services.orchestrator.domain.estimator import Estimate, Range
from services.orchestrator.domain.preflight import BudgetLevel, PreflightMode, Verdict, verdict_of
from services.orchestrator.transport.convert import agent_to_proto, workflow_to_proto
from services.orchestrator.usecases.estimate_message import estimate_message
from services.orchestrator.usecases.preflight import Cleared, Preflight
from services.orchestrator.usecases.runs_below import RunsBelow
from tests.support.estimates import FixedBudgets, FixedPrices, MemoryEstimates, NoWorkflows, a_preflight
from tests.support.workflows import a_node, a_run, a_workflow, literal
from tests.unit.orchestrator.test_start_session import Agents

ADA = Caller(principal=Principal(tenant=TENANT, subject="key_ada", roles=frozenset(), token=Secret("t")), peer=None)
A_DOLLAR = NanoUsd(NANO_PER_USD)


def nobody_below() -> RunsBelow:
    return RunsBelow(
        workflows=NoWorkflows(),
        workflow_facts=workflow_to_proto,
        agents=Agents(),
        agent_facts=agent_to_proto,
    )


def a_talk(*, model: str = "large", turns: int = 20) -> journal_pb2.RunStarted:
    ada = agent_pb2.Agent(name="Ada", version="1.0.0", model=model, max_output_tokens=1_000)
    nodes = [
        a_node(f"n{number}", agent=workflow_pb2.AgentNode(agent="Ada@1.0.0", prompt=literal("Go.")))
        for number in range(turns)
    ]
    return a_run(a_workflow(*nodes), agents=[ada])


async def clear(
    preflight: Preflight,
    mode: PreflightMode,
    *,
    max_cost: NanoUsd = A_DOLLAR,
) -> Cleared:
    return await preflight(ADA, a_talk(), mode=mode, max_cost=max_cost, metadata={"project": "p"})


@pytest.mark.parametrize(
    ("left", "before_degrading", "refuses", "unpriced", "verdict"),
    [
        (200, None, True, (), Verdict.FITS),
        (199, None, True, (), Verdict.WARNS),
        (100, None, True, (), Verdict.WARNS),
        (99, None, True, (), Verdict.EXCEEDS),
        (0, None, True, (), Verdict.EXCEEDS),
        (500, 100, True, (), Verdict.FITS),
        (500, 99, True, (), Verdict.DEGRADES),
        (99, 99, True, (), Verdict.EXCEEDS),
        (0, None, False, (), Verdict.WARNS),
        # What has a price is a part of what it takes: too much of it is too much, little of it says nothing.
        (200, None, True, ("odd",), Verdict.UNKNOWN),
        (500, 99, True, ("odd",), Verdict.UNKNOWN),
        (99, None, True, ("odd",), Verdict.EXCEEDS),
        (0, None, False, ("odd",), Verdict.UNKNOWN),
    ],
)
def test_an_estimate_is_held_against_what_is_left(
    left: int, before_degrading: int | None, refuses: bool, unpriced: tuple[str, ...], verdict: Verdict
) -> None:
    none = Range(0, 0, 0)
    estimate = Estimate(
        ranges=(none, none, Range(50, 100, 200), none),
        calibrated_on=0,
        pooled=False,
        judged=0,
        covered=0,
        unpriced=unpriced,
    )
    level = BudgetLevel(name="run", left=left, left_before_degrading=before_degrading, refuses=refuses)
    assert verdict_of(estimate, level) is verdict


async def test_nothing_is_estimated_unless_somebody_wants_it() -> None:
    budgets = FixedBudgets()
    assert await clear(a_preflight(nobody_below(), budgets=budgets), PreflightMode.UNSPECIFIED) == Cleared()
    wanting = a_preflight(nobody_below(), budgets=budgets, default=PreflightMode.WARN)
    assert await clear(wanting, PreflightMode.OFF) == Cleared()
    assert budgets.asked == []
    assert (await clear(wanting, PreflightMode.UNSPECIFIED)).assessment is not None
    own = a_preflight(nobody_below(), own={TENANT: PreflightMode.WARN})
    assert (await clear(own, PreflightMode.UNSPECIFIED)).assessment is not None


async def test_a_warning_lets_the_run_start() -> None:
    cleared = await clear(a_preflight(nobody_below()), PreflightMode.WARN, max_cost=NanoUsd(1))
    assert cleared.assessment is not None
    assert cleared.assessment.worst[1] is Verdict.EXCEEDS
    assert cleared.degraded_to == ""


async def test_what_exceeds_a_budget_is_rejected_with_the_budget_and_both_sums() -> None:
    budgets = FixedBudgets(BudgetLevel(name="tenant", left=10**12), BudgetLevel(name="project:p", left=5))
    with pytest.raises(EstimateExceedsBudget) as refusal:
        await clear(a_preflight(nobody_below(), budgets=budgets), PreflightMode.REJECT)
    assert refusal.value.metadata["budget"] == "project:p"
    assert int(refusal.value.metadata["left_nano_usd"]) == 5
    assert int(refusal.value.metadata["expected_nano_usd"]) > 5
    assert budgets.asked == ["p"]
    budgets.levels.pop()
    assert (await clear(a_preflight(nobody_below(), budgets=budgets), PreflightMode.REJECT)).assessment is not None


async def test_a_run_that_is_too_dear_gets_the_dearest_model_with_which_it_fits() -> None:
    preflight = a_preflight(nobody_below())
    fits = (await clear(preflight, PreflightMode.DEGRADE)).degraded_to
    dear = await clear(preflight, PreflightMode.DEGRADE, max_cost=NanoUsd(20_000_000))
    dearer = await clear(preflight, PreflightMode.DEGRADE, max_cost=NanoUsd(5_000_000))
    assert (fits, dear.degraded_to, dearer.degraded_to) == ("", "middle", "small")
    assert dearer.assessment is not None
    assert dearer.assessment.worst[1] < Verdict.DEGRADES
    with pytest.raises(EstimateExceedsBudget):
        await clear(preflight, PreflightMode.DEGRADE, max_cost=NanoUsd(1))


async def test_a_budget_that_asks_for_cheaper_models_degrades_and_refuses_nothing() -> None:
    level = BudgetLevel(name="tenant", left=10**12, left_before_degrading=20_000_000)
    preflight = a_preflight(nobody_below(), budgets=FixedBudgets(level))
    assert (await clear(preflight, PreflightMode.DEGRADE)).degraded_to == "middle"
    assert (await clear(preflight, PreflightMode.REJECT)).degraded_to == ""
    level = BudgetLevel(name="tenant", left=10**12, left_before_degrading=1)
    preflight = a_preflight(nobody_below(), budgets=FixedBudgets(level))
    assert (await clear(preflight, PreflightMode.DEGRADE)).degraded_to == ""


async def test_prices_are_remembered_for_when_nobody_can_say() -> None:
    store, prices, budgets = MemoryEstimates(), FixedPrices(), FixedBudgets()
    preflight = a_preflight(nobody_below(), store=store, prices=prices, budgets=budgets)
    first = await clear(preflight, PreflightMode.WARN)
    assert store.prices == {"large": prices.known["large"]}
    prices.refusal = Unavailable("inference")
    assert (await clear(preflight, PreflightMode.REJECT)).assessment is not None
    with pytest.raises(EstimateExceedsBudget):
        await clear(preflight, PreflightMode.DEGRADE, max_cost=NanoUsd(1))
    store.prices.clear()
    unpriced = await clear(preflight, PreflightMode.WARN)
    assert unpriced.assessment is not None
    assert (unpriced.assessment.estimate.unpriced, unpriced.assessment.verdict) == (("large",), Verdict.UNKNOWN)
    assert first.assessment is not None
    assert first.assessment.verdict is Verdict.FITS


@pytest.mark.parametrize("mode", [PreflightMode.REJECT, PreflightMode.DEGRADE])
async def test_who_starts_nothing_that_may_not_fit_starts_nothing_blind(mode: PreflightMode) -> None:
    store, prices, budgets = MemoryEstimates(), FixedPrices(), FixedBudgets()
    preflight = a_preflight(nobody_below(), store=store, prices=prices, budgets=budgets)
    budgets.refusal = Unavailable("cost")
    with pytest.raises(PreflightUnavailable, match=r"^cost, which preflight asks"):
        await clear(preflight, mode)
    # What does not fit its own budget needs nobody else to say so.
    with pytest.raises(EstimateExceedsBudget):
        await clear(preflight, mode, max_cost=NanoUsd(1))
    budgets.refusal, prices.refusal = None, Unavailable("inference")
    store.prices.clear()
    with pytest.raises(PreflightUnavailable, match=r"^cost or inference, which"):
        await clear(preflight, mode)
    # Neither later nor from this caller a price will come.
    prices.refusal = PermissionDenied("not you")
    with pytest.raises(EstimateNotPriced, match="of large;"):
        await clear(preflight, mode)
    prices.refusal = None
    del prices.known["large"]
    with pytest.raises(EstimateNotPriced) as refusal:
        await clear(preflight, mode)
    assert refusal.value.metadata["models"] == "large"


async def test_a_warning_goes_on_and_says_what_nobody_could_say() -> None:
    budgets = FixedBudgets()
    budgets.refusal = Unavailable("cost")
    cleared = await clear(a_preflight(nobody_below(), budgets=budgets), PreflightMode.WARN)
    assert cleared.assessment is not None
    told = estimate_message(cleared.assessment)
    assert (told.verdict, told.budgets_unknown) == (estimate_pb2.ESTIMATE_VERDICT_UNKNOWN, True)
    assert [one.budget for one in told.budgets] == ["run"]
