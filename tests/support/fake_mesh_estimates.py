"""Estimates of the fake mesh: always the same, of a workflow that takes about two cents."""

from dataclasses import dataclass, field
from typing import Any

from comitia.orchestrator.v1 import estimate_pb2, estimate_service_pb2
from services.meshkit.core.errors import NotFound
from tests.support.fake_mesh_rooms import NOON


def a_range(low: int, median: int, high: int) -> estimate_pb2.EstimateRange:
    return estimate_pb2.EstimateRange(low=low, median=median, high=high)


def an_estimate(**fields: Any) -> estimate_pb2.RunEstimate:
    """Makes an estimate."""
    estimate: dict[str, Any] = {
        "input_tokens": a_range(900, 1_000, 1_200),
        "output_tokens": a_range(400, 500, 700),
        "cost_nano_usd": a_range(10_000_000, 20_000_000, 40_000_000),
        "work_milliseconds": a_range(30_000, 61_000, 3_700_000),
        "calibrated_on": 40,
        "judged_count": 50,
        "covered_count": 45,
        "priced": True,
        "budgets": [
            estimate_pb2.BudgetVerdict(budget="run", left_nano_usd=10**9, verdict=estimate_pb2.ESTIMATE_VERDICT_FITS),
            estimate_pb2.BudgetVerdict(
                budget="tenant", left_nano_usd=30_000_000, verdict=estimate_pb2.ESTIMATE_VERDICT_WARNS
            ),
        ],
        "verdict": estimate_pb2.ESTIMATE_VERDICT_WARNS,
    }
    return estimate_pb2.RunEstimate(**{**estimate, **fields})


@dataclass(slots=True)
class Estimates:
    """Estimates of anything but the workflow `missing`, and runs that ended."""

    asked: list[Any] = field(default_factory=list[Any])
    runs: list[estimate_pb2.EstimatedRun] = field(default_factory=list[estimate_pb2.EstimatedRun])

    def EstimateWorkflow(self, request: Any, _context: Any) -> estimate_service_pb2.EstimateWorkflowResponse:
        self.asked.append(request)
        if request.workflow == "missing":
            raise NotFound("workflow", "missing")
        return estimate_service_pb2.EstimateWorkflowResponse(
            estimate=an_estimate(), workflow=f"{request.workflow}@1.0.0"
        )

    def EstimateSession(self, request: Any, _context: Any) -> estimate_service_pb2.EstimateSessionResponse:
        self.asked.append(request)
        unknown = an_estimate(
            calibrated_on=0, judged_count=0, covered_count=0, priced=False, unpriced_models=["gpt-odd"]
        )
        return estimate_service_pb2.EstimateSessionResponse(estimate=unknown)

    def ListEstimates(self, request: Any, _context: Any) -> estimate_service_pb2.ListEstimatesResponse:
        self.asked.append(request)
        found = [run for run in self.runs if request.run_id in ("", run.run_id)]
        return estimate_service_pb2.ListEstimatesResponse(
            estimates=found[: request.page_size or 50], judged_count=len(self.runs), covered_count=1
        )

    def ended(self, cost: int, **fields: Any) -> None:
        """Adds a run that took so much, newer than those before."""
        run = estimate_pb2.EstimatedRun(
            run_id=f"run_{len(self.runs)}", reference="review@1.0.0", estimate=an_estimate(**fields), cost_nano_usd=cost
        )
        run.end_time.seconds = NOON.seconds + len(self.runs)
        self.runs.insert(0, run)
