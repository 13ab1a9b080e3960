"""Asks services what they hold of a tenant, and has them erase it."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import grpc.aio

from comitia.common.v1 import tenant_data_pb2 as pb
from comitia.common.v1.tenant_data_pb2_grpc import TenantDataServiceStub
from services.gateway.domain.tenant import TENANT_PREFIX
from services.gateway.usecases.tenant_ports import Erased
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.core.tenant import ErasureStep
from services.meshkit.grpc.errors import remote_errors
from services.meshkit.telemetry.logs import logger
from services.meshkit.tenant_data.convert import steps_of

if TYPE_CHECKING:
    from comitia.common.v1.tenant_data_pb2_grpc import TenantDataServiceAsyncStub

#: RPCs that may be sent again.
IDEMPOTENT: Final = (
    "/comitia.common.v1.TenantDataService/PlanErasure",
    "/comitia.common.v1.TenantDataService/EraseTenant",
)
_PLAN_SECONDS: Final = 20.0
_ERASE_SECONDS: Final = 60.0

log = logger(__name__)


class GrpcTenantStores:
    """Implements `usecases.tenant_ports.TenantStores`."""

    def __init__(self, channels: Mapping[str, grpc.aio.Channel]) -> None:
        self._stubs: dict[str, TenantDataServiceAsyncStub] = {
            name: TenantDataServiceStub(channel) for name, channel in channels.items()
        }

    @property
    def services(self) -> Sequence[str]:
        """See `TenantStores.services`."""
        return tuple(self._stubs)

    async def plan(self, tenant: TenantId) -> Mapping[str, Sequence[ErasureStep] | None]:
        """See `TenantStores.plan`."""
        plans = await asyncio.gather(*(self._plan(service, tenant) for service in self._stubs))
        return dict(zip(self._stubs, plans, strict=True))

    async def erase(self, service: str, tenant: TenantId) -> Erased:
        """See `TenantStores.erase`."""
        request = pb.EraseTenantRequest(tenant_id=from_uuid(TENANT_PREFIX, tenant))
        with remote_errors():
            answer = await self._stubs[service].EraseTenant(request, timeout=_ERASE_SECONDS)
        return Erased(steps=steps_of(answer.steps), done=answer.done)

    async def _plan(self, service: str, tenant: TenantId) -> Sequence[ErasureStep] | None:
        request = pb.PlanErasureRequest(tenant_id=from_uuid(TENANT_PREFIX, tenant))
        try:
            with remote_errors():
                answer = await self._stubs[service].PlanErasure(request, timeout=_PLAN_SECONDS)
        except MeshError as error:
            log.warning("a service does not say what it holds of a tenant", asked=service, reason=error.reason)
            return None
        return steps_of(answer.steps)
