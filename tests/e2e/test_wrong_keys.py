"""Somebody tries keys at the whole mesh: they are held back, and nobody else notices."""

import asyncio
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.e2e.conftest import Rest, RestAnswer, Tenant
from tests.support.gateway import new_key_text
from tests.support.mesh import RunningMesh

#: An address of this machine that no other test comes from.
ATTACKER = "127.0.0.66"
#: Wrong keys that are looked up for one address, a second; twice as many at once.
LIMIT = 10


@pytest.fixture
async def attacker(mesh: RunningMesh) -> AsyncIterator[Rest]:
    connector = aiohttp.TCPConnector(local_addr=(ATTACKER, 0))
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30)) as session:
        yield Rest(session, mesh.url, "")


async def attack(attacker: Rest, tries: int) -> list[RestAnswer]:
    """Tries keys, twenty at a time, each of them from somewhere else as far as a header can say so."""
    places = asyncio.Semaphore(20)

    async def one(number: int) -> RestAnswer:
        headers = {"x-api-key": new_key_text(), "x-forwarded-for": f"198.51.100.{number % 250}"}
        async with places:
            return await attacker.ask("GET", "/v1/agents", headers=headers)

    return list(await asyncio.gather(*(one(number) for number in range(tries))))


async def test_keys_cannot_be_tried_at_will(attacker: Rest, tenant: Tenant) -> None:
    beside = Rest(attacker.session, attacker.url, tenant.key)
    began = time.monotonic()
    attacking = asyncio.create_task(attack(attacker, 600))
    answers: list[RestAnswer] = []
    while not attacking.done():
        # The same address as the attacker, and another.
        answers.append(await beside.ask("GET", "/v1/agents?page_size=1"))
        answers.append(await tenant.rest.ask("GET", "/v1/agents?page_size=1"))
        await asyncio.sleep(0.05)
    tried = await attacking
    took = time.monotonic() - began

    assert {answer.status for answer in answers} == {200}
    reasons = [(answer.status, answer.reason) for answer in tried]
    assert set(reasons) == {(401, "API_KEY_INVALID"), (429, "RATE_LIMITED")}
    assert reasons.count((401, "API_KEY_INVALID")) <= LIMIT * (2 + took) + 1
    wrong = await tenant.rest.ask("GET", "/v1/agents", headers={"x-api-key": new_key_text()})
    assert (wrong.status, wrong.reason) == (401, "API_KEY_INVALID")
