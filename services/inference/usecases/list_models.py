"""Lists what the mesh can ask."""

from services.inference.domain.deployment import Deployments, DeploymentVersion
from services.inference.usecases.ports import PriceList
from services.meshkit.core.identity import Principal


class ListModels:
    """Gives all deployments in the chain's order, each with whether its price is known."""

    def __init__(self, *, deployments: Deployments, prices: PriceList) -> None:
        self._deployments = deployments
        self._prices = prices

    async def __call__(self, principal: Principal) -> list[tuple[DeploymentVersion, bool]]:
        """Gives the deployments.

        Raises: Unavailable: cost cannot say which have a price.
        """
        priced = await self._prices.priced(principal, self._deployments.all)
        return [(deployment, deployment.name in priced) for deployment in self._deployments.all]
