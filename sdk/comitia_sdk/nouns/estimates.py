"""What runs will take, and what they took."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, cast

from comitia.orchestrator.v1 import estimate_pb2, estimate_service_pb2, estimate_service_pb2_grpc, session_pb2
from comitia_sdk.connection import Connection
from comitia_sdk.enums import number_of
from comitia_sdk.json_input import parse_input


class AsyncEstimates:
    """What runs will take, before they run, and how well that was said of those that have ended."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = estimate_service_pb2_grpc.EstimateServiceStub(connection.channel)

    async def workflow(
        self,
        workflow: str,
        input: Mapping[str, Any] | None = None,  # as the contract calls it
        *,
        max_cost_nano_usd: int = 0,
        model: str = "",
        project: str = "",
    ) -> estimate_pb2.RunEstimate:
        """Estimates a run of a workflow; nothing is started.

        Args:
            workflow: `name`, its highest version, or `name@version`.
            input: what the run would be given, as JSON.
            max_cost_nano_usd: hard limit that it would have; 0 means 1 USD.
            model: asked for every agent in place of its own.
        Raises: InvalidRequest, NotFound.
        """
        request = estimate_service_pb2.EstimateWorkflowRequest(
            workflow=workflow, max_cost_nano_usd=max_cost_nano_usd, model=model, project=project
        )
        if input is not None:
            parse_input("input", dict(input), request.input)
        return (await self._connection.call(self._stub.EstimateWorkflow, request)).estimate

    async def session(
        self,
        topic: str,
        *,
        agents: Sequence[str],
        mode: str = "debate",
        strategy: str = "round_robin",
        moderator: str = "",
        pool: str = "",
        max_rounds: int | None = None,
        convergence: session_pb2.ConvergencePolicy | bool = False,
        max_cost_nano_usd: int = 0,
        model: str = "",
        project: str = "",
    ) -> estimate_pb2.RunEstimate:
        """Estimates a session; nothing is started. The arguments are those of `sessions.start`.

        Raises: InvalidRequest, NotFound.
        """
        kind, colon, step = strategy.partition(":")
        policy = session_pb2.ConvergencePolicy(enabled=convergence) if isinstance(convergence, bool) else convergence
        request = estimate_service_pb2.EstimateSessionRequest(
            topic=topic,
            mode=cast(session_pb2.SessionMode.ValueType, number_of(session_pb2.SessionMode, mode, field="mode")),
            strategy=cast(
                session_pb2.SessionStrategy.ValueType,
                number_of(session_pb2.SessionStrategy, kind, field="strategy"),
            ),
            agents=agents,
            max_rounds=max_rounds,
            convergence=policy,
            max_cost_nano_usd=max_cost_nano_usd,
            model=model,
            project=project,
            moderator=moderator,
            strategy_step=session_pb2.StrategyStep(name=step, pool=pool) if colon or pool else None,
        )
        return (await self._connection.call(self._stub.EstimateSession, request)).estimate

    async def list(
        self, *, workflow: str = "", run_id: str = "", page_size: int = 0
    ) -> AsyncGenerator[estimate_pb2.EstimatedRun]:
        """Gives runs that have succeeded with what each was estimated at and took, newest first.

        Args:
            workflow: only its runs, a name without version.
            run_id: only this run or session.
        """
        request = estimate_service_pb2.ListEstimatesRequest(workflow=workflow, run_id=run_id, page_size=page_size)
        async for page in self._connection.pages(self._stub.ListEstimates, request):
            for run in page.estimates:
                yield run

    async def coverage(self, *, workflow: str = "") -> tuple[int, int]:
        """Gives how many of the latest 1,000 runs were held against a calibrated interval of their cost, and how many
        of those it held: nine in ten is what it promises.

        Args:
            workflow: only its runs, a name without version.
        """
        request = estimate_service_pb2.ListEstimatesRequest(workflow=workflow, page_size=1)
        answer = await self._connection.call(self._stub.ListEstimates, request)
        return answer.judged_count, answer.covered_count


def preflight_of(mode: str) -> estimate_pb2.PreflightMode.ValueType:
    """Reads what is done with a run that may not fit its budgets; empty leaves it to the mesh.

    Raises: InvalidRequest.
    """
    if not mode:
        return estimate_pb2.PREFLIGHT_MODE_UNSPECIFIED
    number = number_of(estimate_pb2.PreflightMode, mode, field="preflight")
    return cast(estimate_pb2.PreflightMode.ValueType, number)
