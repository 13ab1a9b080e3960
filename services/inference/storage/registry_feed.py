"""What replicas follow of the registry: its version, and all that tenants have registered."""

from collections.abc import Collection, Sequence
from datetime import timedelta
from itertools import groupby
from typing import Any, Final

from sqlalchemy import RowMapping, Select, delete, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.inference.domain.deployment import VersionState
from services.inference.domain.registry import Holdings
from services.inference.domain.rollout.rollout import RolloutState
from services.inference.storage import registry_codec as codec
from services.inference.storage.registry_repository import deployment_rows, key_place
from services.inference.storage.registry_tables import (
    model_deployment,
    model_route,
    model_version,
    registry_change,
    registry_version,
)
from services.inference.storage.rollout_tables import model_rollout
from services.inference.usecases.registry_ports import RegistryState
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.core.secret import Secret
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.sql.scope import Scope, maintenance_scope
from services.meshkit.telemetry.logs import logger

_KEPT: Final = timedelta(hours=1)

log = logger(__name__)


class SqlRegistryFeed:
    """Implements `RegistryFeed`, across tenants."""

    def __init__(self, maintenance: AsyncEngine, *, keys: KeyRing) -> None:
        self._maintenance = maintenance
        self._keys = keys

    async def version(self) -> int:
        """See `RegistryFeed.version`."""
        async with maintenance_scope(self._maintenance, read_only=True) as scope:
            return await _version(scope)

    async def whole(self) -> RegistryState:
        """See `RegistryFeed.whole`."""
        return await self._state(None)

    async def since(self, version: int) -> RegistryState:
        """See `RegistryFeed.since`."""
        statement = select(registry_change.c.changed_tenant).where(registry_change.c.version > version).distinct()
        async with maintenance_scope(self._maintenance, read_only=True) as scope:
            tenants = [TenantId(row.changed_tenant) for row in await scope.execute(statement)]
        return await self._state(tenants)

    async def forget_changes(self) -> None:
        """See `RegistryFeed.forget_changes`."""
        async with maintenance_scope(self._maintenance) as scope:
            await scope.execute(delete(registry_change).where(registry_change.c.change_time < func.now() - _KEPT))
            await scope.commit()

    async def _state(self, tenants: Collection[TenantId] | None) -> RegistryState:
        """Reads the version before the rest: what changes meanwhile is read again."""
        deployment = model_deployment.c
        versions = (
            deployment_rows()
            .where(deployment.retired_time.is_(None), model_version.c.state != VersionState.RETIRED.value)
            .order_by(deployment.tenant_id, deployment.name, model_version.c.version.desc())
        )
        routes = select(model_route).order_by(model_route.c.tenant_id)
        rollouts = (
            select(model_rollout)
            .where(model_rollout.c.state == RolloutState.RUNNING.value)
            .order_by(model_rollout.c.tenant_id)
        )
        async with maintenance_scope(self._maintenance, read_only=True) as scope:
            version = await _version(scope)
            found = [
                await _by_tenant(scope, versions, deployment.tenant_id, tenants),
                await _by_tenant(scope, routes, model_route.c.tenant_id, tenants),
                await _by_tenant(scope, rollouts, model_rollout.c.tenant_id, tenants),
            ]
        named = {tenant for rows in found for tenant in rows}.union(tenants or ())
        keys: dict[tuple[str, int], Secret] = {}
        for tenant, rows in found[0].items():
            for row in rows:
                if row["secret"] is not None:
                    await self._open(tenant, row, keys)
        return RegistryState(
            version=version,
            holdings={tenant: _holdings(*(rows.get(tenant, ()) for rows in found)) for tenant in named},
            keys=keys,
        )

    async def _open(self, tenant: TenantId, row: RowMapping, keys: dict[tuple[str, int], Secret]) -> None:
        deployment_id = from_uuid("dep", row["deployment_id"])
        try:
            opened = await self._keys.open(tenant, bytes(row["secret"]), aad=key_place(deployment_id))
        except MeshError as error:
            log.warning("the key of a model cannot be opened", deployment_id=deployment_id, error=error.message)
            return
        keys[deployment_id, row["version"]] = Secret(opened.decode())


def _holdings(versions: Sequence[RowMapping], routes: Sequence[RowMapping], rollouts: Sequence[RowMapping]) -> Holdings:
    by_name = groupby(versions, key=lambda row: str(row["name"]))
    running = [codec.rollout_of(row) for row in rollouts]
    return Holdings(
        deployments={name: tuple(codec.version_of(row).version for row in rows) for name, rows in by_name},
        routes={row["name"]: codec.route_of(row) for row in routes},
        rollouts={one.route: one for one in running},
    )


async def _by_tenant(
    scope: Scope, statement: Select[Any], column: Any, tenants: Collection[TenantId] | None
) -> dict[TenantId, list[RowMapping]]:
    if tenants is not None:
        statement = statement.where(column.in_(list(tenants)))
    rows = (await scope.execute(statement)).mappings().all()
    return {TenantId(tenant): list(group) for tenant, group in groupby(rows, key=lambda row: row["tenant_id"])}


async def _version(scope: Scope) -> int:
    return (await scope.execute(select(registry_version.c.version))).scalar_one()
