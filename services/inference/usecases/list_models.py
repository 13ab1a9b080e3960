"""Lists what the mesh can ask."""

from collections.abc import Sequence
from typing import Final

from services.inference.domain.deployment import Deployments, DeploymentVersion
from services.inference.domain.registered import RegisteredDeployment
from services.inference.usecases.ports import PriceList
from services.inference.usecases.registry_ports import RegistryReader
from services.meshkit.core.errors import ErrorKind, MeshError
from services.meshkit.core.identity import Principal
from services.meshkit.telemetry.logs import logger

#: What says that cost cannot be asked now.
_AWAY: Final = frozenset({ErrorKind.UNAVAILABLE, ErrorKind.DEADLINE, ErrorKind.EXHAUSTED})

log = logger(__name__)

Installed = Sequence[tuple[DeploymentVersion, bool]]
Registered = Sequence[tuple[RegisteredDeployment, bool]]


class ListModels:
    """Gives all deployments in the chain's order, then the tenant's own, each with whether its price is known."""

    def __init__(self, *, deployments: Deployments, registered: RegistryReader, prices: PriceList) -> None:
        self._deployments = deployments
        self._registered = registered
        self._prices = prices

    async def __call__(self, principal: Principal) -> tuple[Installed, Registered]:
        """Gives the installation's deployments and the tenant's. One of the same name as the tenant's is left out.

        Raises: Unavailable: cost cannot say which have a price.
        """
        own = await self._registered.deployments(principal.tenant)
        names = {one.name for one in own}
        installed = [one for one in self._deployments.all if one.name not in names]
        newest = [one.versions[0].version for one in own if one.versions]
        priced = await self._prices.priced(principal, [*installed, *newest])
        return [(one, one.name in priced) for one in installed], [
            (one, bool(one.versions) and one.versions[0].version.full_name in priced) for one in own
        ]

    async def one(self, principal: Principal, deployment_id: str) -> tuple[RegisteredDeployment, bool]:
        """Gives one of the tenant's, with all its versions. While cost is away it counts as one without a price.

        Raises: ModelNotFound.
        """
        own = await self._registered.deployment(principal.tenant, deployment_id)
        newest = [one.version for one in own.versions[:1]]
        try:
            return own, bool(await self._prices.priced(principal, newest))
        except MeshError as error:
            # Models are looked at while things are down.
            if error.kind not in _AWAY:
                raise
            log.warning("whether a model has a price is not known", deployment_id=deployment_id, error=error.message)
            return own, False
