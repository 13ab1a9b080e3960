"""Measures what callers who come at the same time get through a budget: ours, and LiteLLM's.

The scenario is that of BerriAI/litellm#40002: a model whose price doubles for long prompts, a key with a budget of
$0.45, and five callers with a long prompt each, which cost $0.12; LiteLLM's proxy let $0.60 through. 500 callers are
the same with a hundred times the budget. The price doubles at 64,000 tokens here, as some models' do, and not at the
272,000 of the report, since a prompt of ours is 256 KB long at most. `docs/overspend.md` says how to read the figures.

Run by `make bench-overspend`; `BENCH_SHORT=1` leaves LiteLLM and the 500 out. What was spent is what the provider
served, at list price; nobody's own books are asked.
"""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

from comitia_sdk.aio import AsyncClient
from comitia_sdk.errors import LimitReached
from services.launcher.services import SERVICES
from services.meshkit.telemetry.logs import setup_logs
from tests.bench.litellm_proxy import NAME, litellm_proxy
from tests.bench.whole_mesh import SHORT, Report
from tests.support.mesh import ProviderProcess, RunningMesh, running_mesh, running_provider

MODEL: Final = "two-price-1"
#: A table of small numbers. The tokenizer that LiteLLM counts with makes so many tokens of it; ours counts its bytes.
PROMPT: Final = ",".join(str(number * 7919 % 100) for number in range(40_000))
PROMPT_TOKENS: Final = 80_000
ANSWER_TOKENS: Final = 20
MOST_TOKENS: Final = 100
#: USD per million tokens in and out: for prompts below this many tokens, and from there on.
LONG_PROMPT: Final = 64_000
PRICES: Final = ((0, "0.75", "3"), (LONG_PROMPT, "1.5", "6"))
#: nano-USD of one token in and out of a long prompt.
INPUT_PRICE: Final = 1_500
OUTPUT_PRICE: Final = 6_000
CAP_A_CALLER: Final = 90_000_000
CROWDS: Final = (5,) if SHORT else (5, 500)
#: Nothing is answered before callers have stood still for this long: all of them come before the first has paid.
_STILL_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 0.2
_NANO: Final = 1e9

#: Makes a call; False when a budget refused it.
Ask = Callable[[], Coroutine[Any, Any, bool]]
report: Final = Report("overspend")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a crowd got through."""

    spent_usd: float
    answered: int
    refused: int

    def overshoot(self, cap_usd: float) -> float:
        """Gives what was spent above the cap."""
        return max(0.0, self.spent_usd - cap_usd)


async def crowd(provider: ProviderProcess, callers: int, ask: Ask) -> Outcome:
    """Has callers come at the same time, once each."""
    name = str(uuid4())
    before = _spent(provider)
    provider.behave(default=True, text="Yes.", prompt_tokens=PROMPT_TOKENS, completion_tokens=ANSWER_TOKENS, held=name)
    tasks = [asyncio.create_task(ask()) for _ in range(callers)]
    await _until_still(provider, tasks)
    provider.release(name)
    answered = sum(await asyncio.gather(*tasks))
    spent = (_spent(provider) - before) / _NANO
    return Outcome(spent_usd=spent, answered=answered, refused=callers - answered)


def _spent(provider: ProviderProcess) -> int:
    calls = [call for call in provider.meter()["calls"] if call["completion_tokens"]]
    return sum(call["prompt_tokens"] * INPUT_PRICE + call["completion_tokens"] * OUTPUT_PRICE for call in calls)


async def _until_still(provider: ProviderProcess, tasks: list[asyncio.Task[bool]]) -> None:
    """Waits until no caller has got further for a while: each is at the provider, refused, or waits for money."""
    loop = asyncio.get_running_loop()
    seen, since = (0, 0), loop.time()
    while loop.time() - since < _STILL_SECONDS or seen == (0, 0):
        now = len((await asyncio.to_thread(provider.meter))["calls"]), sum(task.done() for task in tasks)
        if now != seen:
            seen, since = now, loop.time()
        await asyncio.sleep(_PAUSE_SECONDS)


def price_list() -> str:
    """Writes the prices as ours are imported."""
    head = "provider,model,start_time,min_prompt_tokens,input_usd_per_million,output_usd_per_million"
    return "\n".join([head, *(f"openai,{MODEL},2026-01-01,{tokens},{i},{o}" for tokens, i, o in PRICES), ""])


def litellm_prices() -> dict[str, float]:
    """Gives the prices as LiteLLM is configured with them, in USD per token."""
    (_, *base), (_, *long) = PRICES
    above = f"_above_{LONG_PROMPT // 1000}k_tokens"
    names = ("input_cost_per_token", "output_cost_per_token")
    return {
        **{name: float(price) / 1e6 for name, price in zip(names, base, strict=True)},
        **{f"{name}{above}": float(price) / 1e6 for name, price in zip(names, long, strict=True)},
    }


async def ours(mesh: RunningMesh, operator: AsyncClient, callers: int) -> Outcome:
    """Lets a tenant's callers loose on a mesh."""
    made = await operator.tenants.create(f"crowd-{uuid4()}")
    async with AsyncClient(mesh.url, api_key=made.admin_api_key) as client:
        await client.costs.set_budget(callers * CAP_A_CALLER)

        async def ask() -> bool:
            try:
                await client.models.generate(PROMPT, max_output_tokens=MOST_TOKENS)
            except LimitReached as refusal:
                if refusal.reason != "BUDGET_EXHAUSTED":
                    raise
                return False
            return True

        return await crowd(mesh.provider, callers, ask)


async def theirs(callers: int) -> Outcome | None:
    """Lets as many loose on LiteLLM; None where it cannot be installed."""
    try:
        with running_provider() as provider:
            cap = callers * CAP_A_CALLER / _NANO
            async with litellm_proxy(MODEL, provider.address, prices=litellm_prices(), cap_usd=cap) as proxy:
                return await crowd(provider, callers, lambda: proxy.ask(MODEL, PROMPT, MOST_TOKENS))
    except (subprocess.SubprocessError, OSError) as error:
        sys.stderr.write(f"{NAME} is left out: {error}\n")
        return None


def show(callers: int, we: Outcome, they: Outcome | None) -> None:
    """Prints the figures of one crowd."""
    cap = callers * CAP_A_CALLER / _NANO
    note = f"cap {cap:.2f} USD, {callers} callers at once, {PROMPT_TOKENS} tokens each"
    for figure, unit, goal, of in (
        ("overshoot", "USD", 0.0, lambda outcome: outcome.overshoot(cap)),
        ("spent", "USD", None, lambda outcome: outcome.spent_usd),
        ("refused", "calls", None, lambda outcome: outcome.refused),
    ):
        peers = {} if they is None else {NAME: round(of(they), 4)}
        report(f"{figure}_{callers}", of(we), unit, goal=goal, peers=peers, note=note)


async def main() -> None:
    """Measures each crowd."""
    setup_logs("error")
    # Rates and seats have figures of their own; here each call is to be decided by money.
    environment = {f"COMITIA_{service.upper()}_RATE_FACTOR": "10000" for service in SERVICES}
    environment["COMITIA_INFERENCE_MAX_MODEL_CALLS"] = str(max(CROWDS))
    with ExitStack() as stack:
        # It runs a loop of its own while it comes up.
        settings = {**environment, "COMITIA_INFERENCE_OPENAI_MODEL": MODEL}
        mesh = await asyncio.to_thread(stack.enter_context, running_mesh(environment=settings))
        async with AsyncClient(mesh.url, api_key=mesh.admin_key) as operator:
            await operator.costs.import_prices(price_list(), form="csv", source="bench", apply=True)
            outcomes = [(callers, await ours(mesh, operator, callers)) for callers in CROWDS]
    for callers, we in outcomes:
        show(callers, we, None if SHORT else await theirs(callers))


if __name__ == "__main__":
    asyncio.run(main())
