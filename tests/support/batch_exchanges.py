"""What goes over the wire for a batch, from its submission to its results: `python -m tests.support.batch_exchanges`.

The fixtures are synthetic, and say so: the fake provider answers, and `tests/contract/wire/test_inference_batches.py`
has every request and answer read by the types of the official SDKs.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast

from services.inference.domain.deployment import Adapter, DeploymentVersion
from services.inference.providers.anthropic.batch import AnthropicBatches
from services.inference.providers.http import ProviderHttp, provider_http
from services.inference.providers.openai.batch import OpenAiBatches
from services.inference.providers.openai.chat import Endpoint
from services.inference.usecases.batch_ports import BatchCall, BatchProvider, BatchResult
from services.meshkit.calls.ports import Clearance, DispatchedHold
from services.meshkit.core.money import NanoUsd
from services.meshkit.core.secret import Secret
from tests.support.inference import a_prompt, a_provider_call
from tests.support.providers.fake import KEY, Behaviour, FakeProvider, fake_provider
from tests.support.record_fixtures import ASK_TOOL

FIXTURES = Path(__file__).parents[1] / "contract" / "wire" / "fixtures" / "batches"
BatchDialect = Literal["openai", "anthropic"]
DEPLOYMENTS: dict[BatchDialect, DeploymentVersion] = {
    "openai": DeploymentVersion(name="openai/gpt-4o-mini", adapter=Adapter.OPENAI, model="gpt-4o-mini"),
    "anthropic": DeploymentVersion(name="anthropic/claude", adapter=Adapter.ANTHROPIC, model="claude-haiku-4-5"),
}
#: Prompts by the hold that pays for each, and what becomes of the first three; nobody works on the last.
PROMPTS = {
    "hold_text": a_prompt("Name one argument for trams."),
    "hold_tools": ASK_TOOL,
    "hold_refused": a_prompt("This is refused."),
    "hold_late": a_prompt("This comes too late."),
}
BEHAVIOURS = (
    Behaviour(text="They carry many.", match=("argument",)),
    Behaviour(text="", tool_calls=(("call_a1", "search", '{"query": "trams"}'),), match=("history",)),
    Behaviour(status=400, match=("refused",)),
)
OUR_BATCH = "batch_01jx0000000000000000000000"


@dataclass
class Recorded:
    """Stands in for the way out, and writes down what passes."""

    http: ProviderHttp
    exchanges: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    async def lines(self, deployment: str, method: str, url: str, headers: Any, **how: Any) -> AsyncGenerator[bytes]:
        data, path = how.get("data"), "/" + url.split("/", 3)[3]
        answered: list[bytes] = []
        async for line in self.http.lines(deployment, method, url, headers, **how):
            answered.append(line)
            yield line
        self.exchanges.append(
            {
                "request": f"{method} {path}",
                "body": json.loads(data) if isinstance(data, bytes) else None,
                "answer": [json.loads(line) for line in answered if line],
            }
        )


def batcher_of(dialect: BatchDialect, http: ProviderHttp, provider: FakeProvider, *, key: str = KEY) -> BatchProvider:
    if dialect == "openai":
        return OpenAiBatches(http, Endpoint(base_url=provider.openai_base_url, key=Secret(key)))
    return AnthropicBatches(http, Endpoint(base_url=provider.anthropic_base_url, key=Secret(key)))


def calls_of(dialect: BatchDialect) -> list[BatchCall]:
    return [
        BatchCall(
            call=a_provider_call(
                DEPLOYMENTS[dialect],
                prompt,
                Clearance(hold=DispatchedHold(id=hold, amount=NanoUsd(1)), verdict_id="verdict_1"),
            )
        )
        for hold, prompt in PROMPTS.items()
    ]


async def exchanged(dialect: BatchDialect) -> tuple[dict[str, Any], list[BatchResult]]:
    """Hands a batch over, looks at it, looks for it, and reads its results; gives the fixture and what was read."""
    deployment = DEPLOYMENTS[dialect]
    async with fake_provider() as provider, provider_http(connections=2) as http:
        way = Recorded(http)
        batcher, batches = batcher_of(dialect, cast(ProviderHttp, way), provider), provider.batches
        batches.now, batches.waits = lambda: datetime(2026, 11, 22, 12, tzinfo=UTC), True
        provider.next(*BEHAVIOURS)
        name = await batcher.submit(OUR_BATCH, calls_of(dialect))
        assert not (await batcher.look(deployment, name)).ended
        batches.end(answered=3, rest="expired")
        assert (await batcher.look(deployment, name)).ended
        assert await batcher.find(deployment, OUR_BATCH, frozenset(PROMPTS), batches.now()) == name
        await batcher.cancel(deployment, name)
        results = [result async for result in batcher.results(deployment, name)]
        files = {kept: data.decode() for kept, data in batches.files.items()}
    fixture = {
        "synthetic": True,
        "dialect": dialect,
        "sdk": f"{dialect} {version(dialect)}",
        "exchanges": way.exchanges,
        "files": {kept: [json.loads(line) for line in text.splitlines()] for kept, text in files.items()},
    }
    return fixture, results


async def main() -> None:
    """Writes all fixtures anew."""
    FIXTURES.mkdir(parents=True, exist_ok=True)
    for dialect in DEPLOYMENTS:
        fixture, _ = await exchanged(dialect)
        (FIXTURES / f"{dialect}.json").write_text(json.dumps(fixture, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
