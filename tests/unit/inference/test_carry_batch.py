"""Steps with a batch when its model, its caller or its provider is not there: it waits, or ends as it must."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from services.inference.domain.batch_job import (
    MOST_BLIND_SEARCH,
    MOST_SEARCH,
    MOST_WAIT,
    BatchItem,
    BatchJob,
    BatchState,
    ItemState,
)
from services.inference.domain.deployment import DeploymentVersion, VersionState
from services.inference.domain.errors import ModelNotFound, ProviderRefused, ProviderUnavailable
from services.inference.domain.registry import Holdings
from services.inference.usecases.batch_ports import BatchProgress, LeasedBatch
from services.inference.usecases.carry_batch import CarryBatch
from services.meshkit.core.errors import MeshError, Unauthenticated, Unavailable
from services.meshkit.guard.errors import GuardUnknown
from services.meshkit.testing.fake_clock import NOON, FakeClock
from services.meshkit.testing.mesh_keys import TENANT
from tests.support.inference import ANNA
from tests.support.known_tenants import KnownTenants
from tests.unit.inference.test_batch_job import A_BATCH
from tests.unit.inference.test_registry import a_registry, a_version, held

WRITER = a_version("writer", region="eu-west-1")
WRONG_KEY = ProviderRefused("the key is wrong", deployment="writer")
SENT = BatchItem(index=0, item_id="a", state=ItemState.SENT, hold_id="hold_1")


@dataclass
class Room:
    """A step and all that it asks: a store of one batch, a provider, tokens, and what is known of models."""

    holdings: Holdings = field(default_factory=lambda: held(WRITER))
    heard: bool = True
    blind: bool = False
    gone: bool = False
    #: What the provider has; empty: nothing.
    there: str = "theirs_1"
    ended: bool = False
    #: What each operation of the provider raises from now on.
    broken: dict[str, MeshError] = field(default_factory=dict[str, MeshError])
    asked: deque[str] = field(default_factory=deque[str])
    saved: list[BatchState] = field(default_factory=list[BatchState])
    items_saved: list[BatchItem] = field(default_factory=list[BatchItem])

    def __post_init__(self) -> None:
        self.clock, self.tenants = FakeClock(), KnownTenants()
        us: Any = self
        self.step = CarryBatch(
            registry=a_registry(self.holdings),
            news=us,
            tenants=self.tenants,
            open_batches=us,
            store=us,
            tokens=us,
            law=us,
            holds=us,
            prices=us,
            read=us,
            clock=self.clock,
        )

    async def carry(self, **changes: Any) -> BatchJob:
        job = replace(
            A_BATCH, deployment="writer", version=1, deployment_id=WRITER.deployment_id, submitted=NOON, **changes
        )
        leased, _ = await self.step(LeasedBatch(job=job, epoch=1))
        return leased.job

    async def items(self, job: BatchJob) -> Sequence[BatchItem]:
        left = job.state not in (BatchState.ACCEPTED, BatchState.HELD)
        return [SENT if left else replace(SENT, state=ItemState.WAITING, hold_id="")]

    async def save(self, leased: LeasedBatch, job: BatchJob, items: Sequence[BatchItem]) -> LeasedBatch:
        self.saved.append(job.state)
        self.items_saved.extend(items)
        return replace(leased, job=job)

    async def principal(self, job: BatchJob) -> Any:
        if self.gone:
            raise Unauthenticated("its key was revoked")
        return ANNA

    async def has_own(self, *_: Any) -> bool:
        raise Unavailable("it would leave now")

    def batcher(self, version: DeploymentVersion) -> Any:
        self._ask("open")
        return self

    async def find(self, *_: Any) -> str:
        self._ask("find")
        return self.there

    async def look(self, *_: Any) -> BatchProgress:
        self._ask("look")
        return BatchProgress(ended=self.ended)

    async def cancel(self, deployment: DeploymentVersion, provider_id: str) -> None:
        self._ask("cancel")
        assert provider_id == "theirs_1"

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if error := self.broken.get(what):
            raise error


RUNNING = {"state": BatchState.RUNNING, "provider_id": "theirs_1"}
SUBMITTING = {"state": BatchState.SUBMITTING}
STOPPING = {**RUNNING, "cancel_requested": True}


async def test_a_batch_that_cannot_be_told_to_stop_is_looked_at_all_the_same() -> None:
    room = Room(broken={"cancel": WRONG_KEY})
    assert (await room.carry(**STOPPING)).state is BatchState.RUNNING
    assert list(room.asked) == ["open", "cancel", "look"]


async def test_a_batch_that_is_to_stop_at_a_provider_that_refuses_us_is_given_up_in_the_end() -> None:
    room = Room(broken={"cancel": WRONG_KEY, "look": WRONG_KEY})
    with pytest.raises(ProviderRefused):
        await room.carry(**STOPPING)
    room.clock.advance(seconds=MOST_WAIT.total_seconds())
    lost = await room.carry(**STOPPING)
    assert (lost.state, lost.reason) == (BatchState.LOST, "PROVIDER_REFUSED")


async def test_a_search_that_fails_goes_on_until_whatever_was_there_has_ended() -> None:
    room = Room(broken={"find": WRONG_KEY})
    room.clock.advance(seconds=MOST_SEARCH.total_seconds())
    with pytest.raises(ProviderRefused):
        await room.carry(**SUBMITTING)
    room.clock.advance(seconds=(MOST_BLIND_SEARCH - MOST_SEARCH).total_seconds())
    lost = await room.carry(**SUBMITTING)
    assert (lost.state, lost.reason) == (BatchState.LOST, "PROVIDER_REFUSED")


async def test_what_may_have_left_for_a_caller_who_is_gone_is_found_and_stopped() -> None:
    room = Room(gone=True)
    lost = await room.carry(**SUBMITTING)
    assert (lost.state, lost.reason, lost.provider_id) == (BatchState.LOST, "UNAUTHENTICATED", "theirs_1")
    assert list(room.asked) == ["open", "find", "cancel"]
    assert room.saved == [BatchState.RUNNING, BatchState.LOST]


async def test_what_does_not_show_yet_is_looked_for_though_its_caller_is_gone() -> None:
    room = Room(gone=True, there="")
    assert (await room.carry(**SUBMITTING)).state is BatchState.SUBMITTING
    room.clock.advance(seconds=MOST_SEARCH.total_seconds())
    assert (await room.carry(**SUBMITTING)).state is BatchState.LOST


async def test_a_batch_of_a_caller_who_is_gone_is_told_to_stop_as_long_as_it_could_run() -> None:
    room = Room(gone=True, broken={"cancel": ProviderUnavailable("away", deployment="writer")})
    with pytest.raises(ProviderUnavailable):
        await room.carry(**RUNNING)
    room.clock.advance(seconds=MOST_WAIT.total_seconds())
    assert (await room.carry(**RUNNING)).state is BatchState.LOST


async def test_a_batch_of_a_caller_who_is_gone_needs_no_model_to_end() -> None:
    room = Room(gone=True, holdings=held())
    assert (await room.carry(**RUNNING)).state is BatchState.LOST
    unopened = Room(gone=True, broken={"open": ProviderUnavailable("its key is shut", deployment="writer")})
    with pytest.raises(ProviderUnavailable):
        await unopened.carry(**RUNNING)
    unopened.clock.advance(seconds=MOST_WAIT.total_seconds())
    assert (await unopened.carry(**RUNNING)).state is BatchState.LOST


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("state", [SUBMITTING, RUNNING])
async def test_a_model_that_was_not_heard_of_yet_is_waited_for(state: dict[str, Any], gone: bool) -> None:
    room = Room(holdings=held(), heard=False, gone=gone)
    with pytest.raises(ModelNotFound):
        await room.carry(**state)
    assert not room.saved


async def test_a_batch_that_has_not_left_waits_until_models_are_heard_of() -> None:
    room = Room(holdings=held(), heard=False)
    with pytest.raises(ModelNotFound):
        await room.carry()
    room.heard = True
    ended = await room.carry()
    assert (ended.state, ended.reason) == (BatchState.ENDED, "MODEL_NOT_FOUND")


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (a_version("writer", region="eu-west-1", deployment_id="dep_another_of_this_name"), "MODEL_NOT_FOUND"),
        (a_version("writer", region="eu-west-1", state=VersionState.REFUSED), "MODEL_NOT_READY"),
        (a_version("writer", number=2, region="eu-west-1"), "MODEL_NOT_FOUND"),
    ],
)
async def test_a_batch_leaves_for_the_version_that_was_accepted_and_for_no_other(
    now: DeploymentVersion, reason: str
) -> None:
    room = Room(holdings=held(now))
    ended = await room.carry()
    assert (ended.state, ended.reason) == (BatchState.ENDED, reason)
    assert [one.state for one in room.items_saved] == [ItemState.FAILED]


async def test_a_batch_leaves_only_for_where_its_content_may_be_now() -> None:
    room = Room()
    room.tenants.set(TENANT, residency_region="eu")
    with pytest.raises(Unavailable, match="it would leave now"):
        await room.carry()
    room.tenants.set(TENANT, residency_region="us")
    ended = await room.carry()
    assert (ended.state, ended.reason) == (BatchState.ENDED, "NO_MODEL_CONFIGURED")
    # What has left is there, and its answers are wanted.
    assert (await room.carry(**RUNNING)).state is BatchState.RUNNING


async def test_nothing_leaves_while_nobody_can_say_where_it_may_go() -> None:
    room = Room()
    for unknown in ("knows", "is_cut"):
        room.tenants.knows, room.tenants.is_cut = unknown != "knows", unknown == "is_cut"
        with pytest.raises(GuardUnknown):
            await room.carry()
        assert (await room.carry(**RUNNING)).state is BatchState.RUNNING
    room.tenants.set(TENANT)
    with pytest.raises(Unavailable, match="it would leave now"):
        await room.carry()


async def test_a_version_that_was_refused_since_still_answers_what_it_was_asked() -> None:
    room = Room(holdings=held(replace(WRITER, state=VersionState.REFUSED)))
    assert (await room.carry(**RUNNING)).state is BatchState.RUNNING
