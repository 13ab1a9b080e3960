"""How good estimates are of runs of the local model: real answers, of which nobody knows how long they will be.

A workflow of one turn, in its other version of two, with prompts of 3 to about 100 words. Reported, without a bound:
the time that turns take is that of this machine and of what else it does.
"""

import asyncio
import http.client
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Final

from services.launcher.embedded.local_model import missing_wheels, prepare_local_model
from services.orchestrator.domain.estimator import Habits, estimate, learn
from services.orchestrator.domain.run_shape import Amount, PartShape, Prices, RunShape, SeenRun, SeenTurn, TurnShape
from tests.bench.ground import until
from tests.integration.conftest import free_port

_SECONDS: Final = 60.0 if os.environ.get("BENCH_SHORT") else 330.0
_LEARNT: Final = 40
_PRICES: Final = {"local": Prices(input=1_000_000_000, output=4_000_000_000)}
_WORDS: Final = (
    "river stone cloud bridge market letter garden window paper engine winter music harbour story teacher".split()
)
_LONG, _SHORT = 96, 64


def _ask(port: int, text: str, most: int) -> tuple[str, SeenTurn]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": most, "temperature": 0.8}
    begun = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    turn = SeenTurn(
        part=0 if most == _LONG else 1,
        input_tokens=answer["usage"]["prompt_tokens"],
        output_tokens=answer["usage"]["completion_tokens"],
        seconds=time.perf_counter() - begun,
    )
    return answer["choices"][0]["message"]["content"], turn


def _run(port: int, random: Random) -> tuple[RunShape, SeenRun]:
    count = min(int(random.lognormvariate(3, 0.8)) + 3, 100)
    text = "Write about: " + " ".join(random.choice(_WORDS) for _ in range(count))
    writes = TurnShape(agent="Writer", model="local", given_bytes=len(text), max_output=_LONG)
    parts = [PartShape(place="write", turn=writes)]
    said, turn = _ask(port, text, _LONG)
    turns = [turn]
    if random.random() < 0.5:
        shortens = TurnShape(agent="Editor", model="local", given_bytes=30, reads=(0,), max_output=_SHORT)
        parts.append(PartShape(place="shorten", after=(0,), turn=shortens))
        turns.append(_ask(port, "Shorten this to a sentence: " + said, _SHORT)[1])
    read, written = sum(one.input_tokens for one in turns), sum(one.output_tokens for one in turns)
    seconds = sum(one.seconds for one in turns)
    seen = SeenRun(
        totals=(read, written, 1_000 * read + 4_000 * written, seconds),
        turns=turns,
        made=dict.fromkeys(range(len(parts)), 1),
    )
    return RunShape(name="workflow:local", reference=f"local@1.{len(parts)}.0", parts=parts), seen


def _report(port: int) -> None:
    covered: dict[Amount, list[bool]] = {amount: [] for amount in Amount}
    ratios: dict[Amount, list[float]] = {amount: [] for amount in Amount}
    random, habits, count, end = Random(5), Habits(), 0, time.monotonic() + _SECONDS
    while time.monotonic() < end or count <= _LEARNT + 1:
        shape, seen = _run(port, random)
        given, count = estimate(shape, habits, _PRICES), count + 1
        if count > _LEARNT:
            for amount in Amount:
                expected, actual = given.of(amount), seen.totals[amount]
                covered[amount].append(expected.low <= actual <= expected.high)
                ratios[amount].append(expected.median / actual)
        learn(shape, seen, habits, _PRICES)
    print(f"{count - _LEARNT} runs of the local model, after {_LEARNT} that were learnt from only:")
    for amount in Amount:
        share, off = statistics.mean(covered[amount]), statistics.median(ratios[amount]) - 1
        print(f"  {amount.name.lower():14} coverage {share:6.1%} of 90 %   median estimate/actual {off:+6.1%}")


async def main() -> None:
    """Starts the local model alone and prints the figures."""
    if missing := missing_wheels():
        raise SystemExit(f"needs {', '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="comitia-bench-") as folder:
        port = free_port()
        spec = prepare_local_model(
            port=port, log=Path(folder, "log"), environment=dict(os.environ), user={}, directory=Path.cwd()
        )
        quiet = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            *spec.command, env=dict(spec.environment), stdout=quiet, stderr=quiet
        )
        try:
            await until(spec.probe)
            await asyncio.to_thread(_report, port)
        finally:
            process.terminate()
            await process.wait()


if __name__ == "__main__":
    asyncio.run(main())
