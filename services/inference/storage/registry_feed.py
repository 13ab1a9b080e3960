"""What replicas follow of the registry: its version, and all that tenants have registered."""

from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import groupby
from typing import Any, Final

from sqlalchemy import RowMapping, Select, delete, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.inference.domain.deployment import DeploymentVersion, VersionState
from services.inference.domain.errors import ModelUnreadable
from services.inference.domain.registry import Holdings
from services.inference.domain.rollout.rollout import Rollout, RolloutState
from services.inference.domain.route import Route
from services.inference.storage import registry_codec as codec
from services.inference.storage.one_trips import REGISTRY_VERSION
from services.inference.storage.registry_repository import deployment_rows, key_place
from services.inference.storage.registry_tables import (
    model_deployment,
    model_route,
    model_version,
    registry_change,
    registry_version,
)
from services.inference.storage.rollout_tables import model_rollout
from services.inference.usecases.registry_ports import Keys, RegistryState
from services.meshkit.core.errors import Unavailable
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid
from services.meshkit.core.secret import Secret
from services.meshkit.crypto.errors import KeyDestroyed, SealBroken
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.sql.one_trip import one_trip
from services.meshkit.sql.scope import Scope, maintenance_scope
from services.meshkit.telemetry.logs import logger

_KEPT: Final = timedelta(hours=1)

#: Versions, routes and rollouts by tenant.
_Rows = list[dict[TenantId, list[RowMapping]]]

log = logger(__name__)


class SqlRegistryFeed:
    """Implements `RegistryFeed`, across tenants."""

    def __init__(self, maintenance: AsyncEngine, *, keys: KeyRing) -> None:
        self._maintenance = maintenance
        self._keys = keys

    async def version(self) -> int:
        """See `RegistryFeed.version`."""
        ((version,),) = await one_trip(self._maintenance, None, REGISTRY_VERSION)
        return int(version)

    async def whole(self) -> RegistryState:
        """See `RegistryFeed.whole`."""
        async with maintenance_scope(self._maintenance, read_only=True) as scope:
            version = await _version(scope)
            rows = await _rows(scope, None)
        return await self._state(version, rows, None)

    async def since(self, version: int, *, also: Collection[TenantId] = ()) -> RegistryState:
        """See `RegistryFeed.since`."""
        async with maintenance_scope(self._maintenance, read_only=True) as scope:
            # First: what is committed after it is above it, and read again.
            current = await _version(scope)
            tenants = await _changed(scope, since=version, current=current)
            tenants = None if tenants is None else {*tenants, *also}
            rows = await _rows(scope, tenants)
        return await self._state(current, rows, tenants)

    async def forget_changes(self) -> None:
        """See `RegistryFeed.forget_changes`."""
        changes = registry_change.c
        async with maintenance_scope(self._maintenance) as scope:
            # All up to the newest that is old enough: who misses one is told by what the oldest kept one is.
            newest = select(func.max(changes.version)).where(changes.change_time < func.now() - _KEPT)
            await scope.execute(delete(registry_change).where(changes.version <= newest.scalar_subquery()))
            await scope.commit()

    async def _state(self, version: int, found: _Rows, tenants: Collection[TenantId] | None) -> RegistryState:
        named = {tenant for rows in found for tenant in rows}.union(tenants or ())
        return RegistryState(
            version=version,
            whole=tenants is None,
            holdings={tenant: _holdings(*(rows.get(tenant, ()) for rows in found)) for tenant in named},
            keys={tenant: await self._keys_of(tenant, rows) for tenant, rows in found[0].items()},
        )

    async def _keys_of(self, tenant: TenantId, versions: Sequence[RowMapping]) -> Keys:
        """Opens the keys of a tenant, as far as that can be done right now."""
        keys: dict[tuple[str, int], Secret | None] = {}
        for row in versions:
            if row["secret"] is None:
                continue
            deployment_id = from_uuid("dep", row["deployment_id"])
            try:
                opened = await self._keys.open(tenant, bytes(row["secret"]), aad=key_place(deployment_id))
            except (SealBroken, KeyDestroyed) as error:
                log.warning("the key of a model cannot be opened", deployment_id=deployment_id, error=error.message)
            except Unavailable:
                keys[deployment_id, row["version"]] = None
            else:
                keys[deployment_id, row["version"]] = Secret(opened.decode())
        return keys


def _holdings(versions: Sequence[RowMapping], routes: Sequence[RowMapping], rollouts: Sequence[RowMapping]) -> Holdings:
    """Reads what a tenant has registered. What cannot be read is left out by its name, and keeps nothing back."""
    unreadable: set[str] = set()
    deployments: dict[str, tuple[DeploymentVersion, ...]] = {}
    read_routes: dict[str, Route] = {}
    running: dict[str, Rollout] = {}
    for name, rows in groupby(versions, key=lambda row: str(row["name"])):
        # Named in any case, so that the installation's of the same name is not asked in its place.
        deployments[name] = ()
        with _apart(name, unreadable):
            deployments[name] = tuple(codec.version_of(row).version for row in rows)
    for row in routes:
        with _apart(row["name"], unreadable):
            read_routes[row["name"]] = codec.route_of(row)
    for row in rollouts:
        # A route without its rollout would send all calls to one side of it.
        with _apart(row["route"], unreadable):
            running[row["route"]] = codec.rollout_of(row)
    return Holdings(deployments=deployments, routes=read_routes, rollouts=running, unreadable=frozenset(unreadable))


@contextmanager
def _apart(name: str, unreadable: set[str]) -> Generator[None]:
    """Keeps to one name what cannot be read of it."""
    try:
        yield
    except ModelUnreadable as error:
        log.error("what is registered under a name cannot be read", name=name, cause=repr(error.__cause__))
        unreadable.add(name)


async def _changed(scope: Scope, *, since: int, current: int) -> Collection[TenantId] | None:
    """Gives the tenants of whom something has changed; None: not all changes since are known any more."""
    changes = registry_change.c
    statement = select(changes.changed_tenant).where(changes.version > since).distinct()
    tenants = [TenantId(row.changed_tenant) for row in await scope.execute(statement)]
    # Read last, so that none of them was forgotten before they were read.
    oldest = (await scope.execute(select(func.min(changes.version)))).scalar_one()
    known = since == current or (oldest is not None and oldest - 1 <= since < current)
    return tenants if known else None


async def _rows(scope: Scope, tenants: Collection[TenantId] | None) -> _Rows:
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
    return [
        await _by_tenant(scope, versions, deployment.tenant_id, tenants),
        await _by_tenant(scope, routes, model_route.c.tenant_id, tenants),
        await _by_tenant(scope, rollouts, model_rollout.c.tenant_id, tenants),
    ]


async def _by_tenant(
    scope: Scope, statement: Select[Any], column: Any, tenants: Collection[TenantId] | None
) -> dict[TenantId, list[RowMapping]]:
    if tenants is not None:
        statement = statement.where(column.in_(list(tenants)))
    rows = (await scope.execute(statement)).mappings().all()
    return {TenantId(tenant): list(group) for tenant, group in groupby(rows, key=lambda row: row["tenant_id"])}


async def _version(scope: Scope) -> int:
    return (await scope.execute(select(registry_version.c.version))).scalar_one()
