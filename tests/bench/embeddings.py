"""Measures vectors of short texts by the local model, through the door: texts a second, and the time of one alone.

Run by `make bench-embeddings`; `BENCH_SHORT=1` takes fewer rounds. Keys, law and money are on. No two texts are the
same, so that none is answered from the cache; a figure of its own asks for the same texts again.
"""

import asyncio
import statistics
import time
from dataclasses import replace
from itertools import count
from typing import Final

import aiohttp

from tests.bench.whole_mesh import SHORT, BenchMesh, Report, data_dir, processor_seconds, up

SECONDS: Final = 4.0 if SHORT else 15.0
AT_ONCE: Final = 8
TEXTS: Final = 32
MODEL: Final = "all-minilm-l6-v2"
GOAL_TEXTS: Final = 300.0

figure: Final = Report("embeddings")


class Door:
    """Asks for vectors of texts that nobody asked for before."""

    def __init__(self, session: aiohttp.ClientSession, mesh: BenchMesh) -> None:
        self._session = session
        self._url = f"{mesh.addresses.edge_url}/v1/embeddings"
        self._headers = {"authorization": f"Bearer {mesh.admin_key}"}
        self._numbers = count()

    def texts(self, many: int) -> list[str]:
        """Gives short texts, of about ten tokens each."""
        return [f"The boat number {next(self._numbers)} came late over the river." for _ in range(many)]

    async def ask(self, texts: list[str]) -> float:
        """Asks once; gives the seconds that it took. Raises: aiohttp.ClientResponseError."""
        began = time.perf_counter()
        body = {"model": MODEL, "input": texts}
        async with self._session.post(self._url, json=body, headers=self._headers) as answer:
            answer.raise_for_status()
            assert len((await answer.json())["data"]) == len(texts)
        return time.perf_counter() - began


async def measure(mesh: BenchMesh) -> None:
    """Measures many at once, one alone, and what was asked before."""
    async with aiohttp.ClientSession() as session:
        door = Door(session, mesh)
        await door.ask(door.texts(TEXTS))
        before, began = processor_seconds(mesh.data_dir), time.perf_counter()
        made = sum(await asyncio.gather(*(_keep_asking(door) for _ in range(AT_ONCE))))
        seconds = time.perf_counter() - began
        used = {name: (after - before[name]) / made * 1e6 for name, after in processor_seconds(mesh.data_dir).items()}
        parts = sorted(used.items(), key=lambda part: -part[1])[:4]
        note = "; processor time a text, us: " + ", ".join(f"{name} {spent:.0f}" for name, spent in parts)
        figure(
            "local_texts_per_s",
            made / seconds,
            "1/s",
            better="higher",
            goal=GOAL_TEXTS,
            note=f"{AT_ONCE} at once, {TEXTS} texts each{note}",
        )
        alone = [await door.ask(door.texts(1)) for _ in range(100)]
        figure("local_text_p50_ms", statistics.median(alone) * 1000, "ms", note="one text, nothing else asked")
        known = door.texts(TEXTS)
        await door.ask(known)
        again = [await door.ask(known) for _ in range(100)]
        figure("known_texts_p50_ms", statistics.median(again) * 1000, "ms", note=f"{TEXTS} texts from the cache")


async def _keep_asking(door: Door) -> int:
    """Asks until the time is over; gives how many texts it has vectors of."""
    ends, made = time.perf_counter() + SECONDS, 0
    while time.perf_counter() < ends:
        await door.ask(door.texts(TEXTS))
        made += TEXTS
    return made


async def main() -> None:
    """Measures and prints."""
    with data_dir() as options:
        settings = {**options.environment, "COMITIA_INFERENCE_RATE_FACTOR": "10"}
        async with up(replace(options, local_model=True, environment=settings)) as mesh:
            await measure(mesh)


if __name__ == "__main__":
    asyncio.run(main())
