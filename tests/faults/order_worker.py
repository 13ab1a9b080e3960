"""The worker of orders, for `comitia worker run`. It dies at failpoints as services do."""

import os
from pathlib import Path
from typing import Any

from comitia_sdk.worker import Step, StepFailed, Worker
from services.meshkit.core.failpoints import failpoint
from services.meshkit.testing.failpoints import arm
from tests.faults.order_effects import BIG_FACT_BYTES, FOLDER, POOL, act_once

worker = Worker(pool=POOL, concurrency=4)
arm(os.environ["COMITIA_WORKER_FAILPOINTS"])


async def _act(step: Step, number: int) -> dict[str, Any]:
    await failpoint("worker.before_effect")
    receipt = act_once(Path(os.environ[FOLDER]), step.key)
    await failpoint("worker.after_effect")
    return {"number": number, "receipt": receipt}


@worker.step()
async def charge(step: Step, number: int) -> dict[str, Any]:
    return await _act(step, number)


@worker.step()
async def pick(step: Step, number: int) -> dict[str, Any]:
    return await _act(step, number)


@worker.step()
async def keep(step: Step, number: int) -> dict[str, Any]:
    if step.attempt == 1:
        raise StepFailed("all shelves are in use; try again", reason="SHELVES_IN_USE")
    return await _act(step, number)


@worker.step()
async def bill(step: Step, number: int) -> dict[str, Any]:
    return {**await _act(step, number), "text": "x" * BIG_FACT_BYTES}


@worker.step()
async def send(step: Step, number: int) -> dict[str, Any]:
    return await _act(step, number)


@worker.after_step
async def before_outcome(step: Step) -> None:
    await failpoint("worker.before_outcome")
