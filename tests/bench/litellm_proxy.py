"""LiteLLM's proxy in front of the fake provider, with one key whose budget is the cap.

Its keys stand in a database that it reaches through Prisma, whose engine is a download of its own and no package. So
the key's budget comes from a custom auth hook instead; what admits calls is the same code, and its default: each call
reserves what LiteLLM thinks that it costs at most. One worker counts in memory.
"""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import aiohttp

from tests.bench.peer_environment import installed
from tests.integration.conftest import free_port
from tests.support.providers.fake import KEY

VERSION: Final = "1.106.2"
NAME: Final = f"litellm {VERSION}"
_PACKAGES: Final = (f"litellm[proxy]=={VERSION}",)
_GATE: Final = Path(__file__).parent / "peers" / "litellm_gate.py"
_START_SECONDS: Final = 240.0
_CALL_SECONDS: Final = 1200.0
_REFUSED: Final = "budget_exceeded"


@dataclass(frozen=True, slots=True)
class LiteLlm:
    """A proxy that serves."""

    session: aiohttp.ClientSession
    address: str

    async def ask(self, model: str, prompt: str, max_tokens: int) -> bool:
        """Makes a call. Returns False when the budget refused it."""
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens}
        async with self.session.post(f"{self.address}/v1/chat/completions", json=body) as answer:
            text = await answer.text()
            if answer.status != 200 and _REFUSED not in text:
                raise OSError(f"LiteLLM answers {answer.status}: {text[:300]}")
            return answer.status == 200


@asynccontextmanager
async def litellm_proxy(
    model: str, provider: str, *, prices: Mapping[str, float], cap_usd: float
) -> AsyncIterator[LiteLlm]:
    """Runs the proxy while the block runs.

    Args:
        prices: of the model, by the names that LiteLLM has for them.
    Raises: SubprocessError, OSError: it cannot be installed or started.
    """
    python = await asyncio.to_thread(installed, "litellm", _PACKAGES)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="comitia-litellm-") as folder:
        config = Path(folder) / "config.yaml"
        # JSON is YAML.
        config.write_text(json.dumps(_config(model, provider, prices)))
        (Path(folder) / _GATE.name).write_text(_GATE.read_text())
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": folder,
            "OVERSPEND_CAP_USD": str(cap_usd),
            # Its own list of prices as it is packed, not as it stands on the web today.
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
        command = (python.with_name("litellm"), "--config", config, "--host", "127.0.0.1", "--port", str(port))
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, cwd=folder, stdout=sys.stderr, stderr=sys.stderr
        )
        try:
            timeout, connector = aiohttp.ClientTimeout(total=_CALL_SECONDS), aiohttp.TCPConnector(limit=0)
            headers = {"authorization": f"Bearer sk-{token_hex(8)}"}
            async with aiohttp.ClientSession(timeout=timeout, connector=connector, headers=headers) as session:
                proxy = LiteLlm(session, f"http://127.0.0.1:{port}")
                await _until_it_serves(proxy, process)
                yield proxy
        finally:
            with suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


def _config(model: str, provider: str, prices: Mapping[str, float]) -> dict[str, Any]:
    deployment = {"model": f"openai/{model}", "api_base": f"{provider}/v1", "api_key": KEY}
    return {
        "model_list": [{"model_name": model, "litellm_params": deployment, "model_info": dict(prices)}],
        "general_settings": {
            "master_key": f"sk-{token_hex(16)}",
            "custom_auth": f"{_GATE.stem}.allow",
            "custom_auth_run_common_checks": True,
        },
        "litellm_settings": {"num_retries": 0},
    }


async def _until_it_serves(proxy: LiteLlm, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(_START_SECONDS):
        while True:
            if process.returncode is not None:
                raise OSError(f"LiteLLM ended with {process.returncode} before it served")
            try:
                async with proxy.session.get(f"{proxy.address}/health/liveliness"):
                    return
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.2)
