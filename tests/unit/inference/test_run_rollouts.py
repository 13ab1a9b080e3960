"""Changes of rollouts, in memory."""

from collections.abc import Sequence
from typing import Any

import pytest

from services.inference.domain.deployment import Deployments, DeploymentVersion, Task, VersionState
from services.inference.domain.errors import RolloutDecided
from services.inference.domain.registered import RegisteredDeployment, RegisteredVersion
from services.inference.domain.rollout.rollout import Rollout, VersionName
from services.inference.domain.route import Route
from services.inference.usecases.run_rollouts import RunRollouts
from services.meshkit.core.errors import Invalid
from services.meshkit.testing.fake_clock import FakeClock
from services.meshkit.testing.mesh_keys import TENANT
from tests.unit.inference.test_registry import a_route, a_version
from tests.unit.inference.test_rollout import a_rollout


class Work:
    """A transaction on one rollout."""

    def __init__(self, rollout: Rollout, *versions: DeploymentVersion) -> None:
        self.standing = rollout
        self.versions = versions

    async def __aenter__(self) -> "Work":
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    async def claim_once(self) -> None:
        return

    async def rollout(self, rollout_id: str) -> Rollout:
        return self.standing

    async def put_rollout(self, rollout: Rollout) -> None:
        self.standing = rollout

    async def route(self, name: str) -> Route | None:
        return a_route(name, "w")

    async def running(self) -> Sequence[Rollout]:
        return ()

    async def named(self, name: str) -> RegisteredDeployment | None:
        now = FakeClock().now()
        found = tuple(RegisteredVersion(version=one, created=now) for one in self.versions if one.name == name)
        return RegisteredDeployment(id=f"dep_{name}", name=name, task=Task.GENERATE, versions=found, created=now)

    async def commit(self, made: object) -> None:
        return


async def test_who_decides_by_what_has_changed_meanwhile_takes_no_step() -> None:
    known = a_rollout()
    work: Any = Work(known)
    rollouts = RunRollouts(begin=lambda _: work, installed=Deployments(()), clock=FakeClock())
    await rollouts.promote(TENANT, known.id, by="anna")
    with pytest.raises(RolloutDecided):
        await rollouts.promote(TENANT, known.id, by="judge", revision=known.revision)
    assert work.standing.step == 1
    await rollouts.promote(TENANT, known.id, by="anna", revision=work.standing.revision)
    assert work.standing.share_permille == 1000


@pytest.mark.parametrize("state", [VersionState.CHECKING, VersionState.REFUSED, VersionState.RETIRED])
async def test_what_a_canary_is_compared_with_must_be_ready(state: VersionState) -> None:
    begun = a_rollout(
        stable=VersionName(deployment="w", version=1), canary=VersionName(deployment="w", version=2), route="r"
    )
    for stands in (state, VersionState.READY):
        work: Any = Work(begun, a_version("w", 1, state=stands), a_version("w", 2))
        rollouts = RunRollouts(begin=lambda _, work=work: work, installed=Deployments(()), clock=FakeClock())
        if stands is VersionState.READY:
            assert await rollouts.start(TENANT, begun) == begun
            continue
        with pytest.raises(Invalid, match=state.value) as refused:
            await rollouts.start(TENANT, begun)
        assert refused.value.field == "rollout.stable.version"
