"""Sends chats to one address and says how long each took: a process of its own, so that what is measured is elsewhere.

    python -m tests.bench.inference_load <wishes as JSON>

With a rate requests begin on time, whatever became of those before; without one each of `at_once` begins with the end
of the one before.
"""

import asyncio
import json
import sys
import time
from typing import Any, Final

import aiohttp

_TIMEOUT: Final = aiohttp.ClientTimeout(total=30)


async def _load(wishes: dict[str, Any]) -> dict[str, Any]:
    taken: list[float] = []
    statuses: dict[int, int] = {}
    refusals: list[str] = []
    headers = {"authorization": f"Bearer {wishes['key']}", "content-type": "application/json"}
    body = json.dumps(wishes["body"]).encode()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=_TIMEOUT, connector=connector, headers=headers) as session:

        async def ask(begin: float) -> None:
            async with session.post(wishes["url"], data=body) as answer:
                said = await answer.text()
                statuses[answer.status] = statuses.get(answer.status, 0) + 1
                if answer.status == 200:
                    taken.append(time.perf_counter() - begin)
                elif not refusals:
                    refusals.append(said)

        async def again_and_again(end: float) -> None:
            while (now := time.perf_counter()) < end:
                await ask(now)

        started = time.perf_counter()
        end = started + wishes["seconds"]
        async with asyncio.TaskGroup() as tasks:
            if wishes["rate"]:
                for number in range(int(wishes["rate"] * wishes["seconds"])):
                    due = started + number / wishes["rate"]
                    await asyncio.sleep(max(0.0, due - time.perf_counter()))
                    tasks.create_task(ask(due))
            else:
                for _ in range(wishes["at_once"]):
                    tasks.create_task(again_and_again(end))
        if not taken:
            raise SystemExit(f"nothing was answered: {statuses} {refusals}")
        return {"taken": taken, "statuses": statuses, "seconds": time.perf_counter() - started}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_load(json.loads(sys.argv[1])))))
