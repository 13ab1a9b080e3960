"""One call id and two replicas, as callers and their books see them."""

import asyncio

import pytest

from tests.integration.inference.conftest import InferenceMesh, StartInference, a_request
from tests.support.providers.fake import Behaviour

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_repeat_at_another_replica_makes_no_second_call(mesh: InferenceMesh, start: StartInference) -> None:
    async with start() as other:
        mesh.provider.next(Behaviour(held="answer"))
        first = asyncio.create_task(mesh.generate(path="call"))
        await mesh.provider.until(lambda meter: meter.calls)
        assert await other.refused("Generate", a_request(path="call")) == "conflict/CALL_IN_PROGRESS"
        assert await other.refused("Generate", a_request("Another question", path="call")) == (
            "conflict/CALL_ARGUMENTS_DIFFER"
        )
        await mesh.provider.release("answer")
        answer = await first
        repeated = await other.generate(path="call")
        assert (repeated.replayed, repeated.hold_id) == (True, answer.hold_id)
        assert len(mesh.provider.meter.calls) == 1
        assert len(await mesh.charges()) == 1


async def test_a_call_whose_replica_stops_is_another_replicas_at_once(
    mesh: InferenceMesh, start: StartInference
) -> None:
    async with start() as stopping:
        mesh.provider.next(Behaviour(held="never"))
        lost = asyncio.create_task(stopping.generate(path="call"))
        await mesh.provider.until(lambda meter: meter.calls)
        assert await mesh.refused("Generate", a_request(path="call")) == "conflict/CALL_IN_PROGRESS"
    await asyncio.wait((lost,))
    answer = await mesh.generate(path="call")
    assert (answer.replayed, answer.lost_attempts) == (False, 1)
    budget = await mesh.budget()
    assert budget.held_nano_usd > 0, "what the lost call cost is held until it is assumed"
