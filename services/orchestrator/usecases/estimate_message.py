"""Writes estimates as messages: a run shows the one that it was started on from its first fact on. Pure."""

from typing import Final, cast

from comitia.orchestrator.v1 import estimate_pb2
from services.orchestrator.domain.preflight import Assessment, Verdict
from services.orchestrator.domain.run_shape import Amount

#: Models without a price that are named.
_MOST_NAMED: Final = 20


def estimate_message(assessment: Assessment, *, degraded_to: str = "") -> estimate_pb2.RunEstimate:
    """Writes an estimate with what it was held against.

    Args:
        degraded_to: model that preflight has chosen; empty for none.
    """
    estimate = assessment.estimate
    message = estimate_pb2.RunEstimate(
        calibrated_on=estimate.calibrated_on,
        pooled=estimate.pooled,
        judged_count=estimate.judged,
        covered_count=estimate.covered,
        priced=not estimate.unpriced,
        unpriced_models=estimate.unpriced[:_MOST_NAMED],
        budgets_unknown=not assessment.budgets_known,
        budgets=[
            estimate_pb2.BudgetVerdict(budget=level.name, left_nano_usd=level.left, verdict=_verdict(verdict))
            for level, verdict in assessment.verdicts
        ],
        verdict=_verdict(assessment.verdict),
        degraded_to=degraded_to,
    )
    set_ranges(message, estimate.whole())
    return message


def set_ranges(message: estimate_pb2.RunEstimate, ranges: tuple[tuple[int, int, int], ...]) -> None:
    """Writes the ranges of all amounts, each its low bound, median and high bound."""
    places = (
        (message.input_tokens, Amount.INPUT_TOKENS),
        (message.output_tokens, Amount.OUTPUT_TOKENS),
        (message.cost_nano_usd, Amount.COST),
        (message.work_milliseconds, Amount.SECONDS),
    )
    for place, amount in places:
        low, median, high = ranges[amount]
        place.CopyFrom(estimate_pb2.EstimateRange(low=low, median=median, high=high))


def _verdict(verdict: Verdict) -> estimate_pb2.EstimateVerdict.ValueType:
    # Both enums have the same numbers.
    return cast(estimate_pb2.EstimateVerdict.ValueType, int(verdict))
