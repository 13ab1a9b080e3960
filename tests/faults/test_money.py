"""Cost, orchestrator, inference and Postgres die while a tenant wants more than it may spend: nothing is overspent."""

import asyncio
import time
from collections import Counter
from contextlib import suppress
from random import Random
from typing import Final

import pytest

from comitia_sdk.aio import AsyncClient
from services.orchestrator.programs.view import TERMINAL_STATES
from tests.faults.books import SWEEP, Books, bury, expire_holds, read_books, until_settled
from tests.faults.conftest import SEED, Stage
from tests.faults.crasher import Crasher
from tests.faults.spenders import KINDS, TENANT_LIMIT, Spenders, answer_slowly, spenders
from tests.faults.workload import during

pytestmark = [pytest.mark.xdist_group("mesh-faults")]

PARTS: Final = ("cost", "inference", "orchestrator", "postgres")
CALLERS: Final = 8
RUNNERS: Final = 2
LONG_SECONDS: Final = 600.0
#: Calls that one tenant must get through, and refusals that it must meet.
FLOOR: Final = 20


@pytest.mark.e2e
@pytest.mark.timeout(300)
async def test_deaths_anywhere_let_nobody_spend_more_than_a_budget_holds(
    stage: Stage, client: AsyncClient, crasher: Crasher
) -> None:
    dice = Random(SEED)
    waves = [await wave(stage, client, crasher, dice)]
    check(await settled_books(stage, crasher, waves), waves, crasher)


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_ten_minutes_of_deaths_let_nobody_spend_more_than_a_budget_holds(
    stage: Stage, client: AsyncClient, crasher: Crasher
) -> None:
    dice, end = Random(SEED), time.monotonic() + LONG_SECONDS
    waves: list[Spenders] = []
    while time.monotonic() < end:
        waves.append(await wave(stage, client, crasher, dice))
    check(await settled_books(stage, crasher, waves), waves, crasher)


async def wave(stage: Stage, operator: AsyncClient, crasher: Crasher, dice: Random) -> Spenders:
    """Has a tenant spend while each part dies, and then two at once; gives it once all that it began has ended."""
    answer_slowly(stage.mesh.provider)
    deaths = [*((part,) for part in dice.sample(PARTS, k=len(PARTS))), dice.sample(PARTS, k=2)]

    async with spenders(stage.mesh, operator, Random(dice.getrandbits(64))) as spender:

        async def trouble() -> None:
            for parts in deaths:
                await asyncio.sleep(dice.uniform(0.0, 2.0))
                await crasher.anywhere(parts, dice)
            await spender.until_refused()

        undertaker = asyncio.create_task(bury(stage.mesh, spender.tenant))
        try:
            await during(trouble(), *[spender.caller] * CALLERS, *[spender.runner] * RUNNERS)
        finally:
            undertaker.cancel()
            with suppress(asyncio.CancelledError):
                await undertaker
    return spender


async def settled_books(stage: Stage, crasher: Crasher, waves: list[Spenders]) -> Books:
    """Gives the books once cost was started anew, what can be settled is settled, and all else has expired."""
    await crasher.until_back("cost", crasher.kill("cost"))
    await until_settled(stage.mesh)
    tenants = [spender.tenant for spender in waves]
    while True:
        await expire_holds(stage.mesh, tenants)
        books = await read_books(stage.mesh, containing="spender")
        # Memory embeds in its own time what was said.
        if not books.open_holds(tenants):
            return books


def check(books: Books, waves: list[Spenders], crasher: Crasher) -> None:
    """Checks the books, and that there was enough to check: calls that got through, and refusals of each kind."""
    bill, owed = books.checked(within=SWEEP), books.metered()
    refused = sum((spender.refused for spender in waves), Counter[str]())
    print(f"\nseed {SEED}: killed {dict(crasher.killed)} under {len(waves)} tenants; refused {dict(refused)}; {bill}")
    for spender in waves:
        print(f"answered {spender.answered}, unknown {spender.unknown}, owed {owed[spender.tenant]} of {TENANT_LIMIT}")
        assert spender.answered >= FLOOR
        assert spender.check_split(books) >= spender.answered
        assert owed[spender.tenant] <= TENANT_LIMIT
        assert all(session.state in TERMINAL_STATES for session in spender.sessions)
        assert set(spender.refused) == set(KINDS)
    assert refused.total() >= FLOOR * len(waves)
    assert all(crasher.killed[part] >= len(waves) for part in PARTS)
