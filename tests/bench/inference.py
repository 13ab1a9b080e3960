"""Measures the doors: requests a second, what they add to the time of the model, and the processor time of each part.

Run by `make bench-inference`; `BENCH_SHORT=1` gives the same figures in a minute and leaves the peer out. The model is
an Envoy that answers at once. Keys, law and money are on: a budget stands above the calls. LiteLLM's proxy stands in
front of the same Envoy with a key and its budget, see `litellm_proxy.py`.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from services.launcher.embedded.envoy import find_program
from tests.bench.litellm_proxy import NAME, litellm_proxy
from tests.bench.whole_mesh import SHORT, BenchMesh, Report, data_dir, percentile, processor_seconds, up
from tests.integration.conftest import free_port

SECONDS: Final = 4.0 if SHORT else 15.0
WARM_SECONDS: Final = 2.0
AT_ONCE: Final = 32
RATE: Final = 200.0
MODEL: Final = "gpt-4o-mini"
GOALS: Final = {"requests": 800.0, "p50": 3.0, "p99": 15.0}
_PRICES: Final = {"input_cost_per_token": 1.5e-7, "output_cost_per_token": 6e-7}
_BODY: Final = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 64}
_USAGE: Final = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
_TEXT: Final = "Hello there, how may I assist you today?"

figure: Final = Report("inference")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a load met."""

    #: Of answered requests, milliseconds.
    taken: list[float]
    seconds: float
    refused: int

    @property
    def per_second(self) -> float:
        return len(self.taken) / self.seconds


async def load(url: str, key: str, *, rate: float = 0.0, seconds: float = SECONDS) -> Load:
    """Sends chats from a process of its own."""
    wishes = {"url": url, "key": key, "body": _BODY, "rate": rate, "at_once": AT_ONCE, "seconds": seconds}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.inference_load", json.dumps(wishes)), stdout=subprocess.PIPE
    )
    said, _ = await process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"the load on {url} failed")
    found: dict[str, Any] = json.loads(said)
    refused = sum(count for status, count in found["statuses"].items() if status != "200")
    return Load(taken=[one * 1000 for one in found["taken"]], seconds=found["seconds"], refused=refused)


@asynccontextmanager
async def upstream() -> AsyncGenerator[str]:
    """Runs the model that answers at once: below `/sse` as a stream, below `/json` whole."""
    port = free_port()
    shape: dict[str, Any] = {"id": "chatcmpl-1", "created": 1, "model": MODEL}
    chunk = {**shape, "object": "chat.completion.chunk"}
    message, delta = {"role": "assistant", "content": _TEXT}, {"role": "assistant", "content": _TEXT}
    events = (
        {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
        {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {**chunk, "choices": [], "usage": _USAGE},
    )
    stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    whole = json.dumps({**shape, "object": "chat.completion", "choices": [choice], "usage": _USAGE})
    with tempfile.TemporaryDirectory(prefix="comitia-upstream-") as folder:
        configuration = Path(folder) / "envoy.yaml"
        # JSON is YAML, and keeps the empty lines that end events.
        configuration.write_text(json.dumps(_envoy(port, {"/sse": stream, "/json": whole})))
        process = await asyncio.create_subprocess_exec(
            *(find_program(), "-c", configuration, "--disable-hot-restart", "--concurrency", "1", "--log-level", "off")
        )
        try:
            async with asyncio.timeout(30):
                while not await _listens(port):  # noqa: ASYNC110  # another process cannot set an event
                    await asyncio.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            await process.wait()


def _envoy(port: int, answers: dict[str, str]) -> dict[str, Any]:
    kinds = {"/sse": "text/event-stream", "/json": "application/json"}
    routes = [
        {
            "match": {"prefix": prefix},
            "direct_response": {"status": 200, "body": {"inline_string": text}},
            "response_headers_to_add": [
                {
                    "header": {"key": "content-type", "value": kinds[prefix]},
                    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                }
            ],
        }
        for prefix, text in answers.items()
    ]
    kind = "type.googleapis.com/envoy.extensions.filters"
    router = {"@type": f"{kind}.http.router.v3.Router"}
    manager = {
        "@type": f"{kind}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "upstream",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "router", "typed_config": router}],
    }
    chain = {"filters": [{"name": "manager", "typed_config": manager}]}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {"static_resources": {"listeners": [{"name": "all", "address": address, "filter_chains": [chain]}]}}


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def measure(mesh: BenchMesh, model: str) -> None:
    """Measures the door, and the model without it."""
    url, key = f"{mesh.addresses.edge_url}/v1/chat/completions", mesh.admin_key
    await load(url, key, seconds=WARM_SECONDS)
    before = processor_seconds(mesh.data_dir)
    busy = await load(url, key)
    after = processor_seconds(mesh.data_dir)
    parts = {name: (after[name] - used) / len(busy.taken) * 1e6 for name, used in before.items()}
    bare = await load(f"{model}/sse/v1/chat/completions", key, rate=RATE)
    paced = await load(url, key, rate=RATE)
    peers = {} if SHORT else {NAME: (await _peer(model)).per_second}
    shown = ", ".join(f"{name} {used:.0f}" for name, used in sorted(parts.items(), key=lambda one: -one[1]) if used > 1)
    note = f"{AT_ONCE} at once, {busy.refused} refused; processor time a request, us: {shown}"
    figure(
        "door_requests_per_s", busy.per_second, "1/s", better="higher", goal=GOALS["requests"], peers=peers, note=note
    )
    for percent in (50, 99):
        added = percentile(paced.taken, percent) - percentile(bare.taken, percent)
        note = (
            f"at {RATE:g}/s, over {percentile(bare.taken, percent):.2f} ms of the model alone; {paced.refused} refused"
        )
        figure(f"door_added_p{percent}_ms", added, "ms", goal=GOALS[f"p{percent}"], note=note)


async def _peer(model: str) -> Load:
    async with litellm_proxy(MODEL, f"{model}/json", prices=_PRICES, cap_usd=1000.0) as proxy:
        url, key = f"{proxy.address}/v1/chat/completions", str(proxy.session.headers["authorization"]).split()[1]
        await load(url, key, seconds=WARM_SECONDS)
        return await load(url, key)


async def main() -> None:
    """Measures and prints."""
    with data_dir() as options:
        async with upstream() as model:
            settings = {
                **options.environment,
                "COMITIA_INFERENCE_OPENAI_API_KEY": "sk-bench",
                "COMITIA_INFERENCE_OPENAI_BASE_URL": f"{model}/sse/v1",
                "COMITIA_INFERENCE_ANTHROPIC_API_KEY": "",
                "COMITIA_INFERENCE_RATE_FACTOR": "10",
            }
            async with up(replace(options, environment=settings)) as mesh:
                await measure(mesh, model)


if __name__ == "__main__":
    asyncio.run(main())
