"""Changes of rollouts, in memory."""

from typing import Any

import pytest

from services.inference.domain.deployment import Deployments
from services.inference.domain.errors import RolloutDecided
from services.inference.domain.rollout.rollout import Rollout
from services.inference.usecases.run_rollouts import RunRollouts
from services.meshkit.testing.fake_clock import FakeClock
from services.meshkit.testing.mesh_keys import TENANT
from tests.unit.inference.test_rollout import a_rollout


class Work:
    """A transaction on one rollout."""

    def __init__(self, rollout: Rollout) -> None:
        self.standing = rollout

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
