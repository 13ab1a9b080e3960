"""What is said of models while others are away."""

from collections.abc import Sequence
from typing import Any

from services.inference.domain.deployment import Deployments, DeploymentVersion, Task
from services.inference.domain.registered import RegisteredDeployment, RegisteredVersion
from services.inference.usecases.list_models import ListModels
from services.meshkit.core.errors import Unavailable
from services.meshkit.core.identity import Principal, TenantId
from services.meshkit.testing.fake_clock import FakeClock
from tests.support.inference import ANNA, OPENAI


class Registered:
    """One deployment."""

    async def deployment(self, tenant: TenantId, deployment_id: str) -> RegisteredDeployment:
        now = FakeClock().now()
        versions = (RegisteredVersion(version=OPENAI, created=now),)
        return RegisteredDeployment(id=deployment_id, name="w", task=Task.GENERATE, versions=versions, created=now)


class Prices:
    """Cost, which is away."""

    async def priced(self, principal: Principal, deployments: Sequence[DeploymentVersion]) -> frozenset[str]:
        raise Unavailable("cost")


async def test_a_deployment_is_shown_without_a_price_while_cost_is_away() -> None:
    registered: Any = Registered()
    prices: Any = Prices()
    models = ListModels(deployments=Deployments(()), registered=registered, prices=prices)
    shown, priced = await models.one(ANNA, "dep_w")
    assert (shown.name, priced) == ("w", False)
