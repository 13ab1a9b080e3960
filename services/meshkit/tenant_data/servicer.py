"""Serves the erasure of tenants to the gateway."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

from comitia.common.v1 import tenant_data_pb2 as pb
from comitia.common.v1.tenant_data_pb2_grpc import (
    TenantDataServiceServicer,
    add_TenantDataServiceServicer_to_server,
)
from services.meshkit.core.errors import Precondition
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid, to_uuid
from services.meshkit.core.tenant import ErasureStep, KnowsTenants, TenantState
from services.meshkit.grpc.server import Registration
from services.meshkit.sql.tenant_data import TableStatement
from services.meshkit.sql.tenant_rows import BATCH, TenantRows
from services.meshkit.tenant_data.convert import steps_to_proto

_TENANT: Final = "tenant"
#: Time for one call of EraseTenant; what is left then is done in the next.
_SECONDS: Final = 20.0

#: Does something about a tenant before its rows go, such as stopping its runs. Harmless to repeat.
Before = Callable[[TenantId], Awaitable[None]]


class TenantNotDeleting(Precondition):
    """The tenant is not marked for erasure, as far as is known here. The gateway asks again."""

    reason = "TENANT_NOT_DELETING"

    def __init__(self, tenant: TenantId) -> None:
        super().__init__(f"{from_uuid(_TENANT, tenant)} is not marked for erasure, as far as is known here")


class OtherStore(Protocol):
    """Something of a tenant that lies outside its own rows, such as vectors."""

    async def plan(self, tenant: TenantId) -> ErasureStep:
        """Says what is there."""
        ...

    async def erase(self, tenant: TenantId) -> ErasureStep:
        """Deletes all of it; says how much that was. Raises: Unavailable."""
        ...


class TenantData(TenantDataServiceServicer):
    """Plans and does the erasure of a tenant from one service."""

    def __init__(
        self,
        rows: TenantRows,
        *,
        tenants: KnowsTenants,
        others: Sequence[OtherStore] = (),
        before: Sequence[Before] = (),
    ) -> None:
        self._rows = rows
        self._tenants = tenants
        self._others = others
        self._before = before

    @property
    def registration(self) -> Registration:
        """Adds it to a server."""
        return partial(add_TenantDataServiceServicer_to_server, self)

    async def PlanErasure(self, request: pb.PlanErasureRequest, context: Any) -> pb.PlanErasureResponse:
        """See `tenant_data.proto`, as the other method."""
        tenant = TenantId(to_uuid(request.tenant_id, _TENANT))
        steps = await self._rows.plan(tenant)
        steps += [await other.plan(tenant) for other in self._others]
        return pb.PlanErasureResponse(steps=steps_to_proto(steps))

    async def EraseTenant(self, request: pb.EraseTenantRequest, context: Any) -> pb.EraseTenantResponse:
        tenant = TenantId(to_uuid(request.tenant_id, _TENANT))
        known = self._tenants.tenant(tenant)
        if known is None or known.state not in (TenantState.DELETING, TenantState.DELETED):
            raise TenantNotDeleting(tenant)
        steps, done = await self._erase(tenant)
        return pb.EraseTenantResponse(steps=steps_to_proto(steps), done=done)

    async def _erase(self, tenant: TenantId) -> tuple[list[ErasureStep], bool]:
        """Works until nothing is left or the time is up: keys first, since with them goes what cannot wait."""
        until = asyncio.get_running_loop().time() + _SECONDS
        for step_before in self._before:
            await step_before(tenant)
        left = await self._rows.destroy_keys(tenant)
        steps = [await other.erase(tenant) for other in self._others]
        left += sum(step.count for step in steps)
        for statement in self._rows.statements:
            count, more = await self._table(tenant, statement, until)
            steps.append(
                ErasureStep(
                    service=self._rows.service,
                    store=statement.table,
                    action=statement.action,
                    count=count,
                    reason=statement.reason,
                )
            )
            left += more
        return steps, left == 0

    async def _table(self, tenant: TenantId, statement: TableStatement, until: float) -> tuple[int, int]:
        """Erases from one table; gives the rows to tell of, and how many this call found to erase."""
        erased, batch = 0, BATCH
        while batch == BATCH and asyncio.get_running_loop().time() < until:
            batch = await self._rows.erase(tenant, statement)
            erased += batch
        if statement.reason:
            return await self._rows.kept(tenant, statement), erased
        return erased, erased
