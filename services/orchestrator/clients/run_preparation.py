"""What has to stand at the neighbours before a run begins: its budget at cost, its grant at the gateway."""

from typing import Final

import grpc.aio

from comitia.cost.v1 import budget_service_pb2, budget_service_pb2_grpc
from comitia.gateway.v1 import identity_service_pb2, identity_service_pb2_grpc
from services.meshkit.core.identity import Caller
from services.meshkit.core.money import NanoUsd
from services.meshkit.grpc.channel import call_metadata
from services.meshkit.grpc.errors import remote_errors

_SECONDS: Final = 5.0


class RunPreparation:
    """Implements `usecases.ports.Neighbours`."""

    def __init__(self, *, cost: grpc.aio.Channel, gateway: grpc.aio.Channel) -> None:
        self._budgets = budget_service_pb2_grpc.BudgetServiceStub(cost)
        self._identity = identity_service_pb2_grpc.IdentityServiceStub(gateway)

    async def open_budget(self, caller: Caller, run_id: str, limit: NanoUsd, *, project: str) -> str:
        """See `Neighbours.open_budget`."""
        request = budget_service_pb2.CreateBudgetRequest(run_id=run_id, limit_nano_usd=limit, project=project)
        with remote_errors():
            answer = await self._budgets.CreateBudget(
                request, timeout=_SECONDS, metadata=call_metadata(caller.principal)
            )
        return answer.budget.budget_id

    async def issue_grant(self, caller: Caller, run_id: str) -> str:
        """See `Neighbours.issue_grant`."""
        request = identity_service_pb2.IssueGrantRequest(run_id=run_id)
        with remote_errors():
            answer = await self._identity.IssueGrant(
                request, timeout=_SECONDS, metadata=call_metadata(caller.principal)
            )
        return answer.grant_id
