"""Measures the doors: requests a second, what they add to the time of the model, and the processor time of each part.

Run by `make bench-inference`; `BENCH_SHORT=1` gives the same figures in a minute and leaves the peer out. The model is
a process that answers at once. Keys, law and money are on: a budget stands above the calls. LiteLLM's proxy stands in
front of the same model with a key and its budget, see `litellm_proxy.py`; `bare_proxy.py` says what a proxy in Python
takes that does nothing.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import psutil

from comitia_sdk.aio import AsyncClient
from services.launcher.options import UpOptions
from tests.bench.inference_model import MODEL
from tests.bench.litellm_proxy import NAME, litellm_proxy
from tests.bench.whole_mesh import (
    SHORT,
    BenchMesh,
    Report,
    data_dir,
    memory_bytes,
    percentile,
    processor_seconds,
    up,
)

SECONDS: Final = 4.0 if SHORT else 15.0
WARM_SECONDS: Final = 2.0
AT_ONCE: Final = 32
RATE: Final = 200.0
#: Requests that come in an overload, over those that are served without one.
TIMES: Final = 10.0
BUDGET_USD: Final = 1000.0
#: After which the memory of a replica is looked at once more.
REQUESTS: Final = 5_000 if SHORT else 100_000
GOALS: Final = {
    "requests": 800.0,
    "p50": 3.0,
    "p99": 15.0,
    "first": 4.0,
    "cached": 2.0,
    "fallback": 5.0,
    "memory": 150.0,
    "shifting": 1.0,
}
#: Loads of a route of which every other one meets weights that shift, and how often they do.
SHIFT_ROUNDS: Final = 8 if SHORT else 20
SHIFT_SECONDS: Final = 2.0 if SHORT else 5.0
SHIFT_EVERY_SECONDS: Final = 0.5
_SPLIT: Final = "split"
_BARE: Final = "bare aiohttp proxy"
#: Nobody listens there.
_SECOND: Final = "second"
_NOBODY: Final = "http://127.0.0.1:9/v1"
_PRICES: Final = {"input_cost_per_token": 1.5e-7, "output_cost_per_token": 6e-7}
_BODY: Final[dict[str, Any]] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Say hello."}],
    "max_tokens": 64,
}

figure: Final = Report("inference")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a load met. Times in milliseconds."""

    #: Of answered requests.
    taken: list[float]
    #: Until their text began.
    first: list[float]
    #: Of refused requests.
    refused: list[float]
    seconds: float
    #: Of the processor, that sending it took.
    processor_seconds: float

    @property
    def per_second(self) -> float:
        return len(self.taken) / self.seconds


async def load(
    url: str,
    key: str,
    *,
    rate: float = 0.0,
    seconds: float = SECONDS,
    at_once: int = AT_ONCE,
    model: str = MODEL,
    streamed: bool = False,
) -> Load:
    """Sends chats from a process of its own."""
    body = {**_BODY, "model": model, **({"stream": True} if streamed else {})}
    wishes = {"url": url, "key": key, "body": body, "rate": rate, "at_once": at_once, "seconds": seconds}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.inference_load", json.dumps(wishes)), stdout=subprocess.PIPE
    )
    said, _ = await process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"the load on {url} failed")
    found: dict[str, Any] = json.loads(said)
    taken, first, refused = ([one * 1000 for one in found[name]] for name in ("taken", "first", "refused"))
    return Load(
        taken=taken,
        first=first,
        refused=refused,
        seconds=found["seconds"],
        processor_seconds=found["processor_seconds"],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The model that answers at once."""

    url: str
    process: psutil.Process

    def processor_seconds(self) -> float:
        """Gives its processor time so far."""
        used = self.process.cpu_times()
        return used.user + used.system


@asynccontextmanager
async def model_process(module: str = "tests.bench.inference_model", *arguments: str) -> AsyncGenerator[Model]:
    """Runs the model, or a proxy before it, while the block runs."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, *arguments, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        port = int(await process.stdout.readline())
        yield Model(url=f"http://127.0.0.1:{port}", process=psutil.Process(process.pid))
    finally:
        process.terminate()
        await process.wait()


def door_of(mesh: BenchMesh) -> str:
    """Gives the address of the door."""
    return f"{mesh.addresses.edge_url}/v1/chat/completions"


async def measure(mesh: BenchMesh, model: Model) -> None:
    """Measures the door, and the model without it."""
    url, key = door_of(mesh), mesh.admin_key
    async with mesh.client() as client:
        await client.costs.set_budget(round(BUDGET_USD * 10**9))
    await load(url, key, seconds=WARM_SECONDS)
    before = {**processor_seconds(mesh.data_dir), "model": model.processor_seconds()}
    busy = await load(url, key)
    after = {**processor_seconds(mesh.data_dir), "model": model.processor_seconds()}
    parts = {name: (after[name] - used) / len(busy.taken) * 1e6 for name, used in before.items()}
    parts["load"] = busy.processor_seconds / len(busy.taken) * 1e6
    async with model_process("tests.bench.bare_proxy", model.url) as proxy:
        bare_url = f"{proxy.url}/v1/chat/completions"
        passed_on, paced_through = await load(bare_url, key), await load(bare_url, key, rate=RATE)
    peers = {_BARE: passed_on.per_second, **({} if SHORT else {NAME: (await _peer(model)).per_second})}
    shown = ", ".join(f"{name} {used:.0f}" for name, used in sorted(parts.items(), key=lambda one: -one[1]) if used > 1)
    note = f"{AT_ONCE} at once, {len(busy.refused)} refused; processor time a request, us: {shown}"
    figure(
        "door_requests_per_s", busy.per_second, "1/s", better="higher", goal=GOALS["requests"], peers=peers, note=note
    )
    bare = await load(f"{model.url}/v1/chat/completions", key, rate=RATE)
    paced = await load(url, key, rate=RATE)
    for percent in (50, 99):
        alone = percentile(bare.taken, percent)
        note = f"at {RATE:g}/s, over {alone:.2f} ms of the model alone; {len(paced.refused)} refused"
        figure(
            f"door_added_p{percent}_ms",
            percentile(paced.taken, percent) - alone,
            "ms",
            goal=GOALS[f"p{percent}"],
            peers={_BARE: percentile(paced_through.taken, percent) - alone},
            note=note,
        )
    await _measure_streams(mesh, model)
    await _measure_memory(mesh, busy.per_second)
    await _measure_overload(mesh, busy.per_second)


async def _measure_streams(mesh: BenchMesh, model: Model) -> None:
    bare = await load(f"{model.url}/v1/chat/completions", mesh.admin_key, rate=RATE, streamed=True)
    paced = await load(door_of(mesh), mesh.admin_key, rate=RATE, streamed=True)
    alone = percentile(bare.first, 50)
    note = f"at {RATE:g}/s, over {alone:.2f} ms of the model alone; {len(paced.refused)} refused"
    figure("door_first_text_added_p50_ms", percentile(paced.first, 50) - alone, "ms", goal=GOALS["first"], note=note)


async def _measure_overload(mesh: BenchMesh, served: float) -> None:
    """Sends many more requests than can be served, on time whatever becomes of them."""
    flood = await load(door_of(mesh), mesh.admin_key, rate=served * TIMES)
    refusal = percentile(flood.refused, 50) if len(flood.refused) > 1 else 0.0
    note = (
        f"{TIMES:g} times as many as are served come; {len(flood.taken)} answered, {len(flood.refused)} refused,"
        f" half of those within {refusal:.0f} ms of when they were due; the load takes"
        f" {flood.processor_seconds / flood.seconds:.2f} of the processors"
    )
    figure("door_overload_share", flood.per_second / served, "ratio", better="higher", note=note)


async def _measure_memory(mesh: BenchMesh, served: float) -> None:
    """Looks at what a replica holds, before and after many requests."""
    before = memory_bytes(mesh.data_dir, "inference")
    await load(door_of(mesh), mesh.admin_key, seconds=REQUESTS / served)
    after = memory_bytes(mesh.data_dir, "inference")
    note = f"resident, after {REQUESTS} more requests; {before / 2**20:.0f} MB before them"
    figure("door_memory_mb", after / 2**20, "MB", goal=GOALS["memory"], note=note)


async def _measure_fallback(mesh: BenchMesh) -> None:
    """Asks for a chain whose first does not answer and is left alone, one call at a time."""
    async with mesh.client() as client:
        await client.costs.set_budget(round(BUDGET_USD * 10**9))
    url, key = door_of(mesh), mesh.admin_key
    await load(url, key, seconds=WARM_SECONDS, at_once=1, model="default")
    chained = await load(url, key, at_once=1, model="default")
    direct = await load(url, key, at_once=1, model=_SECOND)
    alone = percentile(direct.taken, 50)
    note = f"one at a time, over {alone:.2f} ms of the model asked by name; {len(chained.refused)} refused"
    figure("door_fallback_added_p50_ms", percentile(chained.taken, 50) - alone, "ms", goal=GOALS["fallback"], note=note)


async def _measure_shifts(mesh: BenchMesh) -> None:
    """Loads a route of two models again and again, every other time while its weights shift."""
    url, key, taken = door_of(mesh), mesh.admin_key, {False: list[float](), True: list[float]()}
    shifts = 0
    async with mesh.client() as client:
        await client.costs.set_budget(round(BUDGET_USD * 10**9))
        await _shift(client, 500)
        await load(url, key, rate=RATE, seconds=WARM_SECONDS, model=_SPLIT)
        for number in range(SHIFT_ROUNDS):
            # Still, shifting, shifting, still: what drifts over time is in both alike.
            shifting = number % 4 in (1, 2)
            loading = asyncio.create_task(load(url, key, rate=RATE, seconds=SHIFT_SECONDS, model=_SPLIT))
            while shifting and not loading.done():
                shifts += 1
                await _shift(client, 900 if shifts % 2 else 100)
                await asyncio.wait((loading,), timeout=SHIFT_EVERY_SECONDS)
            found = await loading
            taken[shifting] += found.taken
    for percent in (50, 95):
        still, moved = (percentile(taken[shifting], percent) for shifting in (False, True))
        note = (
            f"at {RATE:g}/s, {moved:.2f} ms while {shifts} times from 10 to 90 % and back, {still:.2f} ms without;"
            f" {len(taken[True])} and {len(taken[False])} answers"
        )
        added = (moved / still - 1) * 100
        figure(f"door_shifting_added_p{percent}_percent", added, "%", goal=GOALS["shifting"], note=note)


async def _shift(client: AsyncClient, permille: int) -> None:
    await client.models.set_route(
        _SPLIT, {f"openai/{MODEL}": permille, f"openai_compatible/{_SECOND}": 1000 - permille}
    )


async def _measure_kept(mesh: BenchMesh) -> None:
    """Measures answers that equal calls were given before."""
    await load(door_of(mesh), mesh.admin_key, rate=RATE, seconds=WARM_SECONDS)
    kept = await load(door_of(mesh), mesh.admin_key, rate=RATE)
    note = f"at {RATE:g}/s, whole time of a request; {len(kept.refused)} refused"
    figure("door_cached_p50_ms", percentile(kept.taken, 50), "ms", goal=GOALS["cached"], note=note)


async def _peer(model: Model) -> Load:
    async with litellm_proxy(MODEL, model.url, prices=_PRICES, cap_usd=BUDGET_USD) as proxy:
        url, key = f"{proxy.address}/v1/chat/completions", str(proxy.session.headers["authorization"]).split()[1]
        await load(url, key, seconds=WARM_SECONDS)
        return await load(url, key)


def _asking(options: UpOptions, model: Model, **more: str) -> UpOptions:
    """Has a mesh ask the model."""
    settings = {
        "COMITIA_INFERENCE_OPENAI_API_KEY": "sk-bench",
        "COMITIA_INFERENCE_OPENAI_BASE_URL": f"{model.url}/v1",
        "COMITIA_INFERENCE_ANTHROPIC_API_KEY": "",
        "COMITIA_INFERENCE_RATE_FACTOR": "100",
    }
    return replace(options, environment={**options.environment, **settings, **more})


def _second(model: Model) -> dict[str, str]:
    """Has the model answer under a second name, too."""
    return {
        "COMITIA_INFERENCE_COMPATIBLE_BASE_URL": f"{model.url}/v1",
        "COMITIA_INFERENCE_COMPATIBLE_MODEL": _SECOND,
        "COMITIA_COST_FREE_PROVIDERS": json.dumps(["openai_compatible", "stub", "local"]),
    }


async def shifting(options: UpOptions, model: Model) -> None:
    """Measures what it adds to requests that the weights of their route shift."""
    async with up(_asking(options, model, **_second(model))) as mesh:
        await _measure_shifts(mesh)


async def main() -> None:
    """Measures and prints."""
    with data_dir() as options:
        async with model_process() as model:
            async with up(_asking(options, model)) as mesh:
                await measure(mesh, model)
            async with up(_asking(options, model, COMITIA_INFERENCE_ANSWER_CACHE_SECONDS="600")) as mesh:
                await _measure_kept(mesh)
            nobody_first = {"COMITIA_INFERENCE_OPENAI_BASE_URL": _NOBODY}
            async with up(_asking(options, model, **_second(model), **nobody_first)) as mesh:
                await _measure_fallback(mesh)
            await shifting(options, model)


if __name__ == "__main__":
    asyncio.run(main())
