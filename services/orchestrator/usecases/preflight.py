"""Estimates a run before it starts, and does what the caller, or the operator, wants done with one that may not fit."""

from collections.abc import Mapping
from dataclasses import dataclass

from comitia.orchestrator.v1 import journal_pb2
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import Caller, TenantId
from services.meshkit.core.money import NanoUsd
from services.orchestrator.domain.errors import EstimateExceedsBudget, EstimateNotPriced, PreflightUnavailable
from services.orchestrator.domain.preflight import Assessment, PreflightMode, Verdict
from services.orchestrator.domain.run_shape import Amount
from services.orchestrator.usecases.estimate_run import EstimateRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleared:
    """A run that may start."""

    #: None where none was asked for.
    assessment: Assessment | None = None
    #: Model that all agents are to ask, since theirs are too dear; empty when they keep their own.
    degraded_to: str = ""


class Preflight:
    """Lets a run start as it is, with a cheaper model, or not.

    Args:
        default: for tenants that have none in `own`.
    """

    def __init__(
        self, estimate_run: EstimateRun, *, default: PreflightMode, own: Mapping[TenantId, PreflightMode]
    ) -> None:
        self._estimate_run = estimate_run
        self._default = default
        self._own = own

    def wanted(self, caller: Caller, mode: PreflightMode) -> bool:
        """Says whether an estimate is made at all."""
        return self._mode(caller, mode) not in (PreflightMode.OFF, PreflightMode.UNSPECIFIED)

    async def __call__(
        self,
        caller: Caller,
        started: journal_pb2.RunStarted,
        *,
        mode: PreflightMode,
        max_cost: NanoUsd,
        metadata: Mapping[str, str],
    ) -> Cleared:
        """Clears a run. Raises: EstimateExceedsBudget, EstimateNotPriced, PreflightUnavailable."""
        if not self.wanted(caller, mode):
            return Cleared()
        mode = self._mode(caller, mode)
        assessment = await self._estimate_run(caller, started, max_cost=max_cost, metadata=metadata)
        verdict = assessment.verdict
        if mode is PreflightMode.WARN or verdict in (Verdict.FITS, Verdict.WARNS):
            return Cleared(assessment=assessment)
        if mode is PreflightMode.DEGRADE and assessment.budgets_known:
            cheaper = await self._cheaper(caller, started, max_cost, metadata)
            if cheaper is not None:
                return cheaper
        if verdict is Verdict.DEGRADES:
            # It fits; the budget itself says which calls it lets through.
            return Cleared(assessment=assessment)
        raise _refusal(assessment)

    def _mode(self, caller: Caller, mode: PreflightMode) -> PreflightMode:
        return self._own.get(caller.principal.tenant, self._default) if mode is PreflightMode.UNSPECIFIED else mode

    async def _cheaper(
        self, caller: Caller, started: journal_pb2.RunStarted, max_cost: NanoUsd, metadata: Mapping[str, str]
    ) -> Cleared | None:
        """Finds the dearest model with which the run fits."""
        try:
            models = await self._estimate_run.cheaper(caller, started)
        except MeshError:
            return None
        degraded = journal_pb2.RunStarted()
        degraded.CopyFrom(started)
        for model in models:
            degraded.model_override = model
            assessment = await self._estimate_run(caller, degraded, max_cost=max_cost, metadata=metadata)
            if assessment.verdict in (Verdict.FITS, Verdict.WARNS):
                return Cleared(assessment=assessment, degraded_to=model)
        return None


def _refusal(assessment: Assessment) -> MeshError:
    """Says why a run is not cleared. What cannot be said now is refused like what does not fit: nobody spends blind."""
    level, verdict = assessment.worst
    if verdict is Verdict.EXCEEDS:
        median = round(assessment.estimate.of(Amount.COST).median)
        return EstimateExceedsBudget(level.name, expected=NanoUsd(median), left=NanoUsd(level.left))
    if not assessment.budgets_known:
        return PreflightUnavailable("cost")
    if not assessment.prices_known:
        return PreflightUnavailable("cost or inference")
    return EstimateNotPriced(assessment.estimate.unpriced)
