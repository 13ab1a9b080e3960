"""Adds deployments and versions, takes in what checks find, and retires deployments."""

from dataclasses import replace

from services.inference.domain.deployment import DeploymentVersion, Task, VersionState
from services.inference.domain.errors import RolloutInProgress, TooManyRegistered
from services.inference.domain.registered import (
    MOST_DEPLOYMENTS,
    MOST_VERSIONS,
    RegisteredDeployment,
    RegisteredVersion,
    check_embedder,
    check_name,
    check_version,
    same_place,
)
from services.inference.usecases.ports import Adapters
from services.inference.usecases.registry_ports import BeginRegistryWork, SealsKeys
from services.meshkit.core.audit import note
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import AlreadyExists, Invalid
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import IdSource
from services.meshkit.core.secret import Secret


class RegisterModels:
    """Changes what a tenant has registered. A version is asked once its check has passed."""

    def __init__(
        self, *, begin: BeginRegistryWork, adapters: Adapters, seals: SealsKeys, clock: Clock, ids: IdSource
    ) -> None:
        self._begin = begin
        self._adapters = adapters
        self._seals = seals
        self._clock = clock
        self._ids = ids

    async def create(
        self, tenant: TenantId, name: str, task: Task, version: DeploymentVersion, key: Secret
    ) -> RegisteredDeployment:
        """Adds a deployment with its first version. Raises: Invalid, AlreadyExists, TooManyRegistered."""
        check_name(name)
        self._check(version, task)
        deployment_id, now = self._ids.new("dep"), self._clock.now()
        note(target=deployment_id, details=_noted(name, version))
        sealed = await self._seals.seal(tenant, deployment_id, key) if key else None
        first = RegisteredVersion(
            version=replace(version, name=name, task=task, deployment_id=deployment_id, version=1), created=now
        )
        deployment = RegisteredDeployment(id=deployment_id, name=name, task=task, versions=(first,), created=now)
        async with self._begin(tenant) as work:
            await work.claim_once()
            if await work.named(name) is not None:
                raise AlreadyExists("model deployment", name)
            if await work.count_deployments() >= MOST_DEPLOYMENTS:
                raise TooManyRegistered("deployment", MOST_DEPLOYMENTS)
            await work.add_deployment(deployment)
            await work.add_version(deployment_id, first, key=sealed)
            await work.commit(deployment)
        return deployment

    async def add_version(
        self, tenant: TenantId, deployment_id: str, version: DeploymentVersion, key: Secret
    ) -> RegisteredDeployment:
        """Adds a version; without a key it has that of the version before, which goes to no other place.

        Raises: Invalid, ModelNotFound, TooManyRegistered.
        """
        note(target=deployment_id, details=_noted("", version))
        sealed = await self._seals.seal(tenant, deployment_id, key) if key else None
        async with self._begin(tenant) as work:
            await work.claim_once()
            deployment = await work.deployment(deployment_id)
            if deployment.retired is not None:
                raise Invalid("deployment_id", "is retired")
            self._check(version, deployment.task)
            if len(deployment.versions) >= MOST_VERSIONS:
                raise TooManyRegistered("version", MOST_VERSIONS)
            before = deployment.versions[0].version
            if sealed is None and not same_place(before, version) and await work.has_key(before):
                raise Invalid("api_key", "is required where the adapter or the address changes")
            number = before.version + 1
            added = RegisteredVersion(
                version=replace(
                    version, name=deployment.name, task=deployment.task, deployment_id=deployment_id, version=number
                ),
                created=self._clock.now(),
            )
            await work.add_version(deployment_id, added, key=sealed)
            deployment = replace(deployment, versions=(added, *deployment.versions))
            await work.commit(deployment)
        return deployment

    async def to_check(self, tenant: TenantId, deployment_id: str, number: int) -> RegisteredDeployment:
        """Gives the deployment whose version is to be checked. Raises: AnsweredBefore: it was; ModelNotFound."""
        async with self._begin(tenant) as work:
            # Left without a commit: what the check finds claims the request once more, and keeps it.
            await work.claim_once()
            deployment = await work.deployment(deployment_id)
        deployment.version(number)
        return deployment

    async def checked(
        self, tenant: TenantId, deployment_id: str, number: int, failures: tuple[str, ...]
    ) -> RegisteredVersion:
        """Takes in what a check found. Raises: ModelNotFound."""
        note(target=deployment_id, details={"version": number, "failures": len(failures)})
        async with self._begin(tenant) as work:
            await work.claim_once()
            deployment = (await work.deployment(deployment_id)).checked(number, failures)
            await work.save(deployment)
            await work.commit(deployment.version(number))
        return deployment.version(number)

    async def retire(self, tenant: TenantId, deployment_id: str) -> RegisteredDeployment:
        """Retires a deployment; calls in flight end as they would. Raises: ModelNotFound, RolloutInProgress."""
        note(target=deployment_id)
        async with self._begin(tenant) as work:
            await work.claim_once()
            deployment = await work.standing(deployment_id)
            for rollout in await work.running():
                if deployment.name in rollout.deployments:
                    raise RolloutInProgress(rollout.route, rollout_id=rollout.id)
            if deployment.retired is None:
                versions = tuple(
                    replace(one, version=replace(one.version, state=VersionState.RETIRED))
                    for one in deployment.versions
                )
                deployment = replace(deployment, versions=versions, retired=self._clock.now())
                await work.retire(deployment)
            await work.commit(deployment)
        return deployment

    def _check(self, version: DeploymentVersion, task: Task) -> None:
        claims = self._adapters.claims(version.adapter)
        check_version(version, needs_address=claims.needs_address)
        if task is Task.EMBED:
            if not claims.embeds:
                raise Invalid("version.adapter", f"{version.adapter!r} has no models that embed")
            check_embedder(version)
        if version.form not in claims.forms:
            raise Invalid("version.form", f"must be {' or '.join(sorted(form.name for form in claims.forms))}")
        for capability in sorted(version.capabilities or ()):
            if capability not in claims.capabilities:
                raise Invalid(
                    "version.capabilities", f"{capability} is not one that the adapter {version.adapter!r} has"
                )


def _noted(name: str, version: DeploymentVersion) -> dict[str, object]:
    return {
        **({"name": name} if name else {}),
        "adapter": version.adapter,
        "model": version.model,
        "base_url": version.base_url or "usual",
        "region": version.region or "unknown",
    }
