"""Deployments, routes and rollouts in Postgres."""

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from hashlib import sha256
from itertools import groupby
from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, RowMapping, Select, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from services.inference.domain.deployment import DeploymentVersion, VersionState
from services.inference.domain.errors import ModelNotFound, ModelUnreadable, RolloutNotFound
from services.inference.domain.registered import RegisteredDeployment, RegisteredVersion
from services.inference.domain.rollout.judgement import Seen
from services.inference.domain.rollout.rollout import Rollout, RolloutState
from services.inference.domain.route import Route
from services.inference.storage import registry_codec as codec
from services.inference.storage.registry_tables import model_deployment, model_route, model_version
from services.inference.storage.rollout_sums import EVENTS_AT_ONCE, add_up, read_seen
from services.inference.storage.rollout_tables import model_rollout
from services.inference.usecases.registry_ports import RunningRollout
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import to_uuid
from services.meshkit.core.secret import Secret
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.sql.once import claim_once, keep_once
from services.meshkit.sql.scope import Scope, tenant_scope
from services.meshkit.telemetry.logs import logger

Listed = TypeVar("Listed")
_MOST_ROLLOUTS_RUNNING: Final = 1_000

log = logger(__name__)


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
            rows = (await scope.execute(statement)).mappings().all()
        found: list[RegisteredDeployment] = []
        for _, versions in groupby(rows, key=lambda row: row["deployment_id"]):
            with _left_out():
                found.append(_standing_of(list(versions)))
        return found

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
        statement = select(model_route).where(columns.tenant_id == tenant, columns.name > after).order_by(columns.name)
        async with tenant_scope(self._app, tenant, read_only=True) as scope:
            return await _readable(
                scope, statement, read=codec.route_of, behind=lambda row: columns.name > row["name"], most=most
            )

    async def rollout(self, tenant: TenantId, rollout_id: str) -> tuple[Rollout, Seen]:
        """See `RegistryReader.rollout`."""
        async with tenant_scope(self._app, tenant, audited=False) as scope:
            rollout = await _rollout(scope, tenant, rollout_id)
            if rollout.state is not RolloutState.RUNNING:
                # The judge looks at running ones only: nobody else adds what was in no sum by the end.
                await add_up(scope, tenant, rollout, most=EVENTS_AT_ONCE)
            seen = await read_seen(scope, tenant, rollout)
            await scope.commit()
        return rollout, seen

    async def rollouts(self, tenant: TenantId, *, route: str, before: UUID | None, most: int) -> Sequence[Rollout]:
        """See `RegistryReader.rollouts`."""
        columns = model_rollout.c
        statement = select(model_rollout).where(columns.tenant_id == tenant).order_by(columns.rollout_id.desc())
        if route:
            statement = statement.where(columns.route == route)
        if before is not None:
            statement = statement.where(columns.rollout_id < before)
        async with tenant_scope(self._app, tenant, read_only=True) as scope:
            return await _readable(
                scope,
                statement,
                read=codec.rollout_of,
                behind=lambda row: columns.rollout_id < row["rollout_id"],
                most=most,
            )


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

    async def standing(self, deployment_id: str) -> RegisteredDeployment:
        """See `RegistryWork.standing`."""
        return _standing_of(await _versions(self._scope, self._tenant, deployment_id))

    async def retire(self, deployment: RegisteredDeployment) -> None:
        """See `RegistryWork.retire`."""
        version, columns, about = model_version.c, model_deployment.c, to_uuid(deployment.id, "dep")
        await self._scope.execute(
            update(model_version)
            .where(version.tenant_id == self._tenant, version.deployment_id == about)
            .values(state=VersionState.RETIRED.value)
        )
        await self._scope.execute(
            update(model_deployment)
            .where(columns.tenant_id == self._tenant, columns.deployment_id == about)
            .values(retired_time=deployment.retired)
        )

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

    async def route(self, name: str) -> Route | None:
        """See `RegistryWork.route`."""
        return await _route(self._scope, self._tenant, name)

    async def revision(self, name: str) -> int:
        """See `RegistryWork.revision`."""
        columns = model_route.c
        statement = select(columns.revision).where(columns.tenant_id == self._tenant, columns.name == name)
        return (await self._scope.execute(statement)).scalar_one_or_none() or 0

    async def count_routes(self) -> int:
        """See `RegistryWork.count_routes`."""
        statement = select(func.count()).select_from(model_route).where(model_route.c.tenant_id == self._tenant)
        return (await self._scope.execute(statement)).scalar_one()

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

    async def running(self) -> Sequence[RunningRollout]:
        """See `RegistryWork.running`."""
        columns = model_rollout.c
        statement = (
            select(model_rollout)
            .where(columns.tenant_id == self._tenant, columns.state == RolloutState.RUNNING.value)
            .limit(_MOST_ROLLOUTS_RUNNING)
        )
        return [codec.running_of(row) for row in (await self._scope.execute(statement)).mappings()]

    async def end_rollout(self, rollout_id: str, *, by: str, reason: str) -> Rollout:
        """See `RegistryWork.end_rollout`."""
        columns = model_rollout.c
        ended = await self._scope.execute(
            update(model_rollout)
            .where(columns.tenant_id == self._tenant, columns.rollout_id == to_uuid(rollout_id, "rollout"))
            .values(
                state=RolloutState.ROLLED_BACK.value,
                share_permille=0,
                reason=reason,
                decided_by=by,
                revision=columns.revision + 1,
                decided_time=func.now(),
            )
            .returning(model_rollout)
        )
        return codec.rollout_as_far_as_read(ended.mappings().one())

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
    return codec.deployment_of(rows[0], tuple(codec.version_of(row) for row in rows))


def _standing_of(rows: Sequence[RowMapping]) -> RegisteredDeployment:
    """Reads a deployment, without versions where they cannot be read."""
    try:
        return _deployment_of(rows)
    except ModelUnreadable as error:
        log.error("a model cannot be read", name=rows[0]["name"], cause=repr(error.__cause__))
    return codec.deployment_of(rows[0], ())


@contextmanager
def _left_out() -> Generator[None]:
    """Has a list go on without what cannot be read."""
    try:
        yield
    except ModelUnreadable as error:
        log.error("a list is without what cannot be read", error=error.message, cause=repr(error.__cause__))


async def _readable(
    scope: Scope,
    statement: Select[Any],
    *,
    read: Callable[[RowMapping], Listed],
    behind: Callable[[RowMapping], ColumnElement[bool]],
    most: int,
) -> list[Listed]:
    """Reads as many rows as are wanted and can be read: a page that is short for others would look like the last."""
    found: list[Listed] = []
    page = statement
    while True:
        rows = (await scope.execute(page.limit(most))).mappings().all()
        for row in rows:
            with _left_out():
                found.append(read(row))
        if len(rows) < most or len(found) >= most:
            return found[:most]
        page = statement.where(behind(rows[-1]))


async def _deployment(scope: Scope, tenant: TenantId, deployment_id: str) -> RegisteredDeployment:
    return _deployment_of(await _versions(scope, tenant, deployment_id))


async def _versions(scope: Scope, tenant: TenantId, deployment_id: str) -> Sequence[RowMapping]:
    about = to_uuid(deployment_id, "dep", field="deployment_id")
    statement = (
        deployment_rows(tenant)
        .where(model_deployment.c.deployment_id == about)
        .order_by(model_version.c.version.desc())
    )
    found = (await scope.execute(statement)).mappings().all()
    if not found:
        raise ModelNotFound(deployment_id)
    return found


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
