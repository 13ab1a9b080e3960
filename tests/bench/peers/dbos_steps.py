"""Chains of ten DBOS steps that do nothing. Run by `engine_peers`."""

# pyright: reportMissingImports=false, reportUntypedFunctionDecorator=false
# In an environment of its own.

import asyncio
import json
import sys
import time

from dbos import DBOS, DBOSConfig

STEPS = 10


@DBOS.step()
async def nothing(count: int) -> int:
    return count + 1


@DBOS.workflow()
async def chain() -> int:
    count = 0
    for _ in range(STEPS):
        count = await nothing(count)
    return count


async def main() -> None:
    asked = json.loads(sys.stdin.read())
    config: DBOSConfig = {"name": "bench", "system_database_url": asked["url"], "log_level": "ERROR"}
    DBOS(config=config)
    DBOS.launch()
    made, until, began = 0, time.perf_counter() + asked["seconds"], time.perf_counter()

    async def runs() -> None:
        nonlocal made
        while time.perf_counter() < until:
            handle = await DBOS.start_workflow_async(chain)
            await handle.get_result()
            made += STEPS

    await asyncio.gather(*(runs() for _ in range(asked["runs"])))
    sys.stdout.write(json.dumps({"steps_per_s": made / (time.perf_counter() - began)}) + "\n")
    sys.stdout.flush()
    DBOS.destroy()


asyncio.run(main())
