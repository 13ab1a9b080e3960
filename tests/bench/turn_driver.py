"""The client of `tests.bench.turn`, in a process of its own: starts sessions, and is idle while they are measured.

Told what to do in lines of JSON, the first of which says where the mesh is; answers in such lines.
"""

import asyncio
import contextlib
import json
import sys
from typing import Any, Final

from comitia_sdk.aio import AsyncClient

#: As many as a session may have: a session lasts for so many turns a round, and for so many rounds.
AGENTS: Final = tuple(f"Speaker-{number}" for number in range(16))
ROUNDS: Final = 100
#: Between two starts: keeps one key below the rate that the contract allows it.
_PAUSE_SECONDS: Final = 0.05


class Driver:
    """Does what it is told."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def prepare(self) -> None:
        """Makes the agents, and lets every part do everything once."""
        for name in AGENTS:
            await self._client.agents.create(name, instructions="Be brief.", model="stub")
        await self._watch(await self._start(rounds=1))

    async def start(self, *, sessions: int) -> str:
        """Starts sessions that outlast their measurement. Gives the id of the last one."""
        session_id = ""
        for _ in range(sessions):
            session_id = await self._start(rounds=ROUNDS)
            await asyncio.sleep(_PAUSE_SECONDS)
        return session_id

    async def watch(self, *, session_id: str, seconds: float) -> None:
        """Follows a session live."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._watch(session_id)

    async def turns(self, *, session_id: str) -> list[tuple[float, float]]:
        """Gives for each turn of a session its first and its last moment, Unix time."""
        timings = [turn.timing async for turn in self._client.sessions.turns(session_id, page_size=500)]
        return [
            (timing.start_time.ToMicroseconds() / 1e6, timing.end_time.ToMicroseconds() / 1e6) for timing in timings
        ]

    async def _start(self, *, rounds: int) -> str:
        session = await self._client.sessions.start(
            "Where do rivers argue?", agents=AGENTS, max_rounds=rounds, mode="dialogue"
        )
        return session.session_id

    async def _watch(self, session_id: str) -> None:
        async for _ in self._client.sessions.watch(session_id):
            pass


async def main() -> None:
    """Works until its input ends."""
    place: dict[str, str] = json.loads(sys.stdin.readline())
    async with AsyncClient(place["edge_url"], api_key=place["api_key"]) as client:
        driver = Driver(client)
        while line := await asyncio.to_thread(sys.stdin.readline):
            asked: dict[str, Any] = json.loads(line)
            done = await getattr(driver, asked.pop("do"))(**asked)
            sys.stdout.write(json.dumps(done) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
