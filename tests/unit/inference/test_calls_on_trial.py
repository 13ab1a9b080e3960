"""What calls tell of the rollouts that they are part of, and what becomes of calls whose canary fails."""

from dataclasses import replace
from typing import Any

import pytest

from services.inference.domain.deployment import Adapter
from services.inference.domain.errors import ProviderUnavailable
from services.inference.domain.rollout.rollout import ALL, Rollout, VersionName
from services.inference.domain.rollout.watch import Metric
from services.inference.domain.route import Arm
from services.meshkit.content import Usage
from services.meshkit.testing.mesh_keys import TENANT
from tests.support.inference import ANTHROPIC, LOCAL, OPENAI, a_context, an_asked, failing, says
from tests.unit.inference.conftest import Room, make_room
from tests.unit.inference.test_registry import a_route, a_version, held
from tests.unit.inference.test_rollout import a_rollout


def on_trial(room: Room, *, share_permille: int, others: tuple[str, ...] = ()) -> Rollout:
    """Has a model of the tenant's own, which Anthropic's adapter speaks to, tried in the place of OpenAI's."""
    rollout = a_rollout(
        route="w",
        stable=VersionName(deployment=OPENAI.name, version=0),
        canary=VersionName(deployment="new", version=1),
        share_permille=share_permille,
    )
    route = a_route("w", OPENAI.name, *others)
    own = held(a_version("new", adapter=Adapter.ANTHROPIC), routes=[route], rollouts=[rollout])
    room.registry.take({TENANT: own}, whole=True)
    return rollout


def asked(number: int, **changes: Any) -> Any:
    context = a_context()
    run = replace(context, call_id=replace(context.call_id, run_id=f"run_{number}"))
    return an_asked(model="w", context=run, **changes)


async def test_an_answer_of_a_canary_counts_once_it_is_paid(room: Room) -> None:
    rollout = on_trial(room, share_permille=ALL)
    answer = await room.ask(asked(1))
    assert (answer.deployment, answer.deployment_version) == ("new", 1)
    observed = room.observe.of(rollout.id)
    assert observed is not None
    assert {arm: tally.units for arm, tally in observed.watch.tallies.items()} == {Arm.CANARY: 1, Arm.STABLE: 0}
    assert await room.ask(asked(1)) == replace(answer, replayed=True)
    assert observed.watch.tallies[Arm.CANARY].units == 1


async def test_who_meets_a_canary_that_fails_is_answered_by_the_stable_version_which_gains_nothing_by_it(
    room: Room,
) -> None:
    rollout = on_trial(room, share_permille=ALL)
    room.anthropic.scripts = [failing(ProviderUnavailable)]
    answer = await room.ask(asked(1))
    assert (answer.deployment, answer.failed_attempts) == (OPENAI.name, ("new@1: PROVIDER_UNAVAILABLE",))
    observed = room.observe.of(rollout.id)
    assert observed is not None
    assert observed.watch.tallies[Arm.CANARY].bad[Metric.ERROR] == 1
    assert observed.watch.tallies[Arm.STABLE].units == 0


@pytest.mark.parametrize(("others", "share"), [((), 1.0), ((LOCAL.name,), 0.5)])
async def test_both_sides_of_a_rollout_have_the_same_time(room: Room, others: tuple[str, ...], share: float) -> None:
    whole = an_asked().deadline - room.clock.monotonic()
    for number, permille, provider in ((1, 0, room.openai), (2, ALL, room.anthropic)):
        on_trial(room, share_permille=permille, others=others)
        await room.ask(asked(number))
        assert provider.asked[-1].seconds == pytest.approx(whole * share)


async def test_a_canary_that_costs_more_is_noticed_by_what_its_answers_cost(room: Room) -> None:
    rollout = on_trial(room, share_permille=500)
    room.anthropic.scripts = [says("Yes.", usage=Usage(input=10, output=500))]
    for number in range(200):
        await room.ask(asked(number))
    observed = room.observe.of(rollout.id)
    assert observed is not None
    canary, stable = (observed.watch.tallies[arm] for arm in (Arm.CANARY, Arm.STABLE))
    assert canary.bad[Metric.DEAR] > canary.units / 4
    assert stable.bad[Metric.DEAR] == 0


async def test_versions_of_one_name_are_told_apart_when_a_budget_lets_only_the_cheapest_through() -> None:
    room = make_room(prices={OPENAI.name: 5, ANTHROPIC.name: 5, "w@1": 2, "w@2": 9})
    one, two = (a_version("w", number, model=f"model-{number}") for number in (1, 2))
    rollout = a_rollout(
        route="r",
        stable=VersionName(deployment="w", version=1),
        canary=VersionName(deployment="w", version=2),
        share_permille=ALL,
    )
    room.registry.take({TENANT: held(one, two, routes=[a_route("r", "w")], rollouts=[rollout])}, whole=True)
    room.holds.degrades = True
    answer = await room.ask(an_asked(model="r"))
    assert (answer.deployment, answer.deployment_version) == ("w", 1)
