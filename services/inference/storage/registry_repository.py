"""Deployments, routes and rollouts in Postgres."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from itertools import groupby
from typing import Any, Final
from uuid import UUID

from sqlalchemy import RowMapping, Select, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from services.inference.domain.deployment import DeploymentVersion, Task
from services.inference.domain.errors import ModelNotFound, RolloutNotFound
from services.inference.domain.registered import RegisteredDeployment, RegisteredVersion
from services.inference.domain.rollout.judgement import Seen
from services.inference.domain.rollout.rollout import Rollout, RolloutState
from services.inference.domain.route import Route
from services.inference.storage import registry_codec as codec
from services.inference.storage.registry_tables import model_deployment, model_route, model_version
from services.inference.storage.rollout_records import read_seen
from services.inference.storage.rollout_tables import model_rollout
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid, to_uuid
from services.meshkit.core.secret import Secret
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.sql.once import claim_once, keep_once
from services.meshkit.sql.scope import Scope, tenant_scope

_MOST_ROLLOUTS_RUNNING: Final = 1_000


class RegistryRepository:
    """Implements `RegistryReader`, `SealsKeys` and, by `begin`, `BeginRegistryWork`."""

    def __init__(self, app: AsyncEngine, *, keys: KeyRing) -> None:
        self._app = app
        self._keys = keys

    @asynccontextmanager
    async def begin(self, tenant: TenantId) -> AsyncGenerator["SqlRegistryWork"]:
        """Opens a transaction that others of the same tenant wait for; leaving it without `commit` undoes it."""
        async with tenant_scope(self._app, tenant) as scope:
            await scope.execute(select(func.pg_advisory_xact_lock(_lock_of(tenant))))
            yield SqlRegistryWork(scope, tenant)

    async def seal(self, tenant: TenantId, deployment_id: str, key: Secret) -> bytes:
        """See `SealsKeys.seal`."""
        return await self._keys.seal(tenant, key.reveal().encode(), aad=key_place(deployment_id))

    async def deployment(self, tenant: TenantId, deployment_id: str) -> RegisteredDeployment:
        """See `RegistryReader.deployment`."""
        async with tenant_scope(self._app, tenant, read_only=True) as scope:
            return await _deployment(scope, tenant, deployment_id)

    async def deployments(self, tenant: TenantId) -> Sequence[RegisteredDeployment]:
        """See `RegistryReader.deployments`."""
        statement = (
            deployment_rows(tenant)
            .where(model_deployment.c.retired_time.is_(None))
            .order_by(model_deployment.c.name, model_version.c.version.desc())
        )
        async with tenant_scope(self._app, tenant, read_only=True) as scope:
            return deployments_of((await scope.execute(statement)).mappings().all())

    async def route(self, tenant: TenantId, name: str) -> Route:
        """See `RegistryReader.route`."""
        async with tenant_scope(self._app, tenant, read_only=True) as scope:
            found = await _route(scope, tenant, name)
        if found is None:
            raise ModelNotFound(name)
        return found

    async def routes(self, tenant: TenantId, *, after: str, most: int) -> Sequence[Route]:
        """See `RegistryReader.routes`."""
        columns = model_route.c
        statement = (
            select(model_route)
            .where(columns.tenant_id == tenant, columns.name > after)
            .order_by(columns.name)
            .limit(most)
        )
        async with tenant_scope(self._app, tenant, read_only=True) as scope:
            return [codec.route_of(row) for row in (await scope.execute(statement)).mappings()]

    async def rollout(self, tenant: TenantId, rollout_id: str) -> tuple[Rollout, Seen]:
        """See `RegistryReader.rollout`."""
        async with tenant_scope(self._app, tenant, read_only=True) as scope:
            rollout = await _rollout(scope, tenant, rollout_id)
            return rollout, await read_seen(scope, tenant, rollout_id, step=rollout.step)

    async def rollouts(self, tenant: TenantId, *, route: str, before: UUID | None, most: int) -> Sequence[Rollout]:
        """See `RegistryReader.rollouts`."""
        columns = model_rollout.c
        statement = (
            select(model_rollout).where(columns.tenant_id == tenant).order_by(columns.rollout_id.desc()).limit(most)
        )
        if route:
            statement = statement.where(columns.route == route)
        if before is not None:
            statement = statement.where(columns.rollout_id < before)
        async with tenant_scope(self._app, tenant, read_only=True) as scope:
            return [codec.rollout_of(row) for row in (await scope.execute(statement)).mappings()]


class SqlRegistryWork:
    """Implements `RegistryWork`."""

    def __init__(self, scope: Scope, tenant: TenantId) -> None:
        self._scope = scope
        self._tenant = tenant

    async def claim_once(self) -> None:
        """See `RegistryWork.claim_once`."""
        await claim_once(self._scope)

    async def deployment(self, deployment_id: str) -> RegisteredDeployment:
        """See `RegistryWork.deployment`."""
        return await _deployment(self._scope, self._tenant, deployment_id)

    async def named(self, name: str) -> RegisteredDeployment | None:
        """See `RegistryWork.named`."""
        columns = model_deployment.c
        statement = (
            deployment_rows(self._tenant)
            .where(columns.name == name, columns.retired_time.is_(None))
            .order_by(columns.name, model_version.c.version.desc())
        )
        found = deployments_of((await self._scope.execute(statement)).mappings().all())
        return found[0] if found else None

    async def count_deployments(self) -> int:
        """See `RegistryWork.count_deployments`."""
        columns = model_deployment.c
        statement = (
            select(func.count())
            .select_from(model_deployment)
            .where(columns.tenant_id == self._tenant, columns.retired_time.is_(None))
        )
        return (await self._scope.execute(statement)).scalar_one()

    async def add_deployment(self, deployment: RegisteredDeployment) -> None:
        """See `RegistryWork.add_deployment`."""
        await self._scope.execute(
            insert(model_deployment).values(
                tenant_id=self._tenant,
                deployment_id=to_uuid(deployment.id, "dep"),
                name=deployment.name,
                task=deployment.task.value,
                created_time=deployment.created,
            )
        )

    async def has_key(self, version: DeploymentVersion) -> bool:
        """See `RegistryWork.has_key`."""
        columns = model_version.c
        statement = select(columns.secret.is_not(None)).where(
            columns.tenant_id == self._tenant,
            columns.deployment_id == to_uuid(version.deployment_id, "dep"),
            columns.version == version.version,
        )
        return (await self._scope.execute(statement)).scalar_one()

    async def add_version(self, deployment_id: str, version: RegisteredVersion, *, key: bytes | None) -> None:
        """See `RegistryWork.add_version`."""
        columns, number = model_version.c, version.version.version
        ours = columns.tenant_id == self._tenant, columns.deployment_id == to_uuid(deployment_id, "dep")
        before = select(columns.secret).where(*ours, columns.version == number - 1).scalar_subquery()
        await self._scope.execute(
            insert(model_version).values(
                tenant_id=self._tenant,
                deployment_id=to_uuid(deployment_id, "dep"),
                version=number,
                spec=codec.version_spec(version.version),
                secret=before if key is None else key,
                state=version.version.state.value,
                created_time=version.created,
            )
        )

    async def save(self, deployment: RegisteredDeployment) -> None:
        """See `RegistryWork.save`."""
        columns, about = model_version.c, to_uuid(deployment.id, "dep")
        for one in deployment.versions:
            state, failures = one.version.state.value, list(one.failures)
            await self._scope.execute(
                update(model_version)
                .where(
                    columns.tenant_id == self._tenant,
                    columns.deployment_id == about,
                    columns.version == one.version.version,
                    (columns.state != state) | (columns.failures != failures),
                )
                .values(state=state, failures=failures)
            )
        if deployment.retired is not None:
            await self._scope.execute(
                update(model_deployment)
                .where(model_deployment.c.tenant_id == self._tenant, model_deployment.c.deployment_id == about)
                .values(retired_time=deployment.retired)
            )

    async def route(self, name: str) -> Route | None:
        """See `RegistryWork.route`."""
        return await _route(self._scope, self._tenant, name)

    async def routes(self) -> Sequence[Route]:
        """See `RegistryWork.routes`."""
        statement = select(model_route).where(model_route.c.tenant_id == self._tenant)
        return [codec.route_of(row) for row in (await self._scope.execute(statement)).mappings()]

    async def put_route(self, route: Route) -> None:
        """See `RegistryWork.put_route`."""
        values: dict[str, Any] = {"spec": codec.route_spec(route), "revision": route.revision}
        statement = insert(model_route).values(tenant_id=self._tenant, name=route.name, **values)
        await self._scope.execute(statement.on_conflict_do_update(constraint="pk_model_route", set_=values))

    async def delete_route(self, name: str) -> None:
        """See `RegistryWork.delete_route`."""
        columns = model_route.c
        await self._scope.execute(delete(model_route).where(columns.tenant_id == self._tenant, columns.name == name))

    async def rollout(self, rollout_id: str) -> Rollout:
        """See `RegistryWork.rollout`."""
        return await _rollout(self._scope, self._tenant, rollout_id)

    async def running(self) -> Sequence[Rollout]:
        """See `RegistryWork.running`."""
        columns = model_rollout.c
        statement = (
            select(model_rollout)
            .where(columns.tenant_id == self._tenant, columns.state == RolloutState.RUNNING.value)
            .limit(_MOST_ROLLOUTS_RUNNING)
        )
        return [codec.rollout_of(row) for row in (await self._scope.execute(statement)).mappings()]

    async def put_rollout(self, rollout: Rollout) -> None:
        """See `RegistryWork.put_rollout`."""
        values: dict[str, Any] = {
            "route": rollout.route,
            "spec": codec.rollout_spec(rollout),
            "state": rollout.state.value,
            "step": rollout.step,
            "share_permille": rollout.share_permille,
            "reason": rollout.reason or None,
            "decided_by": rollout.decided_by or None,
            "revision": rollout.revision,
            "started_time": rollout.started,
            "step_time": rollout.step_began,
            "decided_time": rollout.decided,
        }
        statement = insert(model_rollout).values(
            tenant_id=self._tenant, rollout_id=to_uuid(rollout.id, "rollout"), **values
        )
        await self._scope.execute(statement.on_conflict_do_update(constraint="pk_model_rollout", set_=values))

    async def commit(self, made: object) -> None:
        """See `RegistryWork.commit`."""
        await keep_once(self._scope, made)
        await self._scope.commit()


def key_place(deployment_id: str) -> bytes:
    """Names the one place in which a sealed key of a provider opens."""
    return b"model_version/" + deployment_id.encode()


# Any: as many columns as SQLAlchemy counts.
def deployment_rows(tenant: TenantId | None = None) -> Select[*tuple[Any, ...]]:
    """Asks for versions beside their deployments, of one tenant or of those that the transaction sees."""
    deployment, version = model_deployment.c, model_version.c
    statement = select(
        deployment.tenant_id,
        deployment.deployment_id,
        deployment.name,
        deployment.task,
        deployment.created_time,
        deployment.retired_time,
        version.version,
        version.spec,
        version.secret,
        version.state,
        version.failures,
        version.created_time.label("version_time"),
    ).join_from(
        model_deployment,
        model_version,
        (deployment.tenant_id == version.tenant_id) & (deployment.deployment_id == version.deployment_id),
    )
    return statement if tenant is None else statement.where(deployment.tenant_id == tenant)


def deployments_of(rows: Sequence[RowMapping]) -> list[RegisteredDeployment]:
    """Reads deployments from rows in their order, the newest version of each first."""
    return [_deployment_of(list(versions)) for _, versions in groupby(rows, key=lambda row: row["deployment_id"])]


def _deployment_of(rows: Sequence[RowMapping]) -> RegisteredDeployment:
    first = rows[0]
    return RegisteredDeployment(
        id=from_uuid("dep", first["deployment_id"]),
        name=first["name"],
        task=Task(first["task"]),
        versions=tuple(codec.version_of(row) for row in rows),
        created=first["created_time"],
        retired=first["retired_time"],
    )


async def _deployment(scope: Scope, tenant: TenantId, deployment_id: str) -> RegisteredDeployment:
    about = to_uuid(deployment_id, "dep", field="deployment_id")
    statement = (
        deployment_rows(tenant)
        .where(model_deployment.c.deployment_id == about)
        .order_by(model_version.c.version.desc())
    )
    found = deployments_of((await scope.execute(statement)).mappings().all())
    if not found:
        raise ModelNotFound(deployment_id)
    return found[0]


async def _route(scope: Scope, tenant: TenantId, name: str) -> Route | None:
    statement = select(model_route).where(model_route.c.tenant_id == tenant, model_route.c.name == name)
    row = (await scope.execute(statement)).mappings().one_or_none()
    return None if row is None else codec.route_of(row)


async def _rollout(scope: Scope, tenant: TenantId, rollout_id: str) -> Rollout:
    about = to_uuid(rollout_id, "rollout", field="rollout_id")
    columns = model_rollout.c
    statement = select(model_rollout).where(columns.tenant_id == tenant, columns.rollout_id == about)
    row = (await scope.execute(statement)).mappings().one_or_none()
    if row is None:
        raise RolloutNotFound(rollout_id)
    return codec.rollout_of(row)


def _lock_of(tenant: TenantId) -> int:
    return int.from_bytes(sha256(b"comitia.model_registry" + tenant.bytes).digest()[:8], "big", signed=True)
