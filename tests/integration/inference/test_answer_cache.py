"""Answers from memory, as callers and their books see them."""

import asyncio

import pytest

from comitia.inference.v1 import generation_pb2
from tests.integration.inference.conftest import InferenceMesh, StartInference

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_an_equal_call_is_answered_from_memory_and_costs_nothing(start: StartInference) -> None:
    async with start(answer_cache_seconds=60) as mesh:
        first = await mesh.generate(path="first")
        spent = (await mesh.budget()).spent_nano_usd
        second = await mesh.generate(path="second")
        assert (first.cached, second.cached) == (False, True)
        assert second.parts == first.parts
        assert (second.cost_nano_usd, second.hold_id) == (0, "")
        again = await mesh.generate(path="second")
        assert (again.replayed, again.parts) == (True, first.parts)
        budget = await mesh.budget()
        assert (budget.spent_nano_usd, budget.held_nano_usd) == (spent, 0)
        assert len(mesh.provider.meter.calls) == 1
        fresh = await mesh.generate(path="third", policy=generation_pb2.CallPolicy(cache=generation_pb2.CACHE_USE_NO))
        assert not fresh.cached
        assert len(mesh.provider.meter.calls) == 2


async def test_a_hundred_equal_calls_make_one_upstream(start: StartInference) -> None:
    async with start(answer_cache_seconds=60) as mesh:
        answers = await asyncio.gather(*(mesh.generate(path=f"call/{n}") for n in range(100)))
        assert len(mesh.provider.meter.calls) == 1
        assert sum(one.cached for one in answers) == 99
        assert len(await mesh.charges()) == 1


async def test_nothing_is_kept_unless_the_installation_says_so(mesh: InferenceMesh) -> None:
    await mesh.generate(path="first")
    assert not (await mesh.generate(path="second")).cached
