"""Figures of the parts that every hop of a turn pays: tokens, rules, one hop, one commit."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from identity import TokenVerifier, sign
from joserfc.jwk import OKPKey
from rules import broken_rules
from service import STUB_ANSWER, TOPIC
from store import Store, Write
from wire import Peer, pb

ONE_TRIP = """
    create function remember(tenants text, tenant uuid[], run uuid[], data text[]) returns void language plpgsql as $$
    begin
        perform set_config('app.tenants', tenants, true);
        insert into memory (tenant, run, data) select * from unnest($2, $3, $4);
    end $$"""


def report(figure: str, value: float, unit: str, better: str, note: str) -> None:
    line = {"bench": "seams", "figure": figure, "value": round(value, 3), "unit": unit, "better": better, "note": note}
    print(json.dumps(line), flush=True)


def micro(figure: str, note: str, work: Callable[[], Any], rounds: int = 3000) -> None:
    started = time.process_time()
    for _ in range(rounds):
        work()
    report(figure, (time.process_time() - started) / rounds * 1e6, "us", "lower", note)


def report_parts(tenant: UUID) -> None:
    """CPU of the parts that every hop pays."""
    key = OKPKey.generate_key("Ed25519")
    verifier = TokenVerifier(key, "comitia")
    token = sign(key, subject="user", tenant=str(tenant), audience="comitia", seconds=3600)
    micro(
        "token_sign",
        "EdDSA by joserfc",
        lambda: sign(key, subject="u", tenant="t", audience="comitia", seconds=60),
        500,
    )
    verifier.cached = False
    micro("token_verify", "signature, claims, expiry; a hop checks two tokens", lambda: verifier.verify(token))
    verifier.cached = True
    micro("token_verify_cached", "look-up in a bounded LRU and expiry", lambda: verifier.verify(token), 100_000)
    prompt = "\n".join([TOPIC, *[STUB_ANSWER[:200]] * 5])
    micro("rules_prompt", f"50 rules over {len(prompt)} characters, nothing broken", lambda: broken_rules(prompt))
    micro("rules_answer", f"50 rules over {len(STUB_ANSWER)} characters", lambda: broken_rules(STUB_ANSWER))


async def report_hops(peer: Peer, token: str) -> None:
    """One hop to policy, alone and 64 at a time, unary and by frame."""
    request = pb.EvaluateRequest(call_id="c", text="a short text")
    for framed in (False, True):
        for together in (1, 64):

            async def burst(together: int = together, framed: bool = framed) -> None:
                await asyncio.gather(
                    *(peer.call("Policy.Evaluate", request, token, framed=framed) for _ in range(together))
                )

            shape = "frame" if framed else "unary"
            await time_calls(f"hop_{shape}_{together}", "driver to policy and back, per call", burst, together)


async def report_commits(host: str, tenant: UUID) -> None:
    """One row and 64 rows, from this process into memory's table."""
    pool = await asyncpg.create_pool(host=host, user="app_memory", database="memory", min_size=1, max_size=1)
    store = Store(pool)
    owner = asyncio.create_task(store.run_groups())
    write = Write("memory", tenant, (uuid4(), STUB_ANSWER))

    async def group() -> None:
        await asyncio.gather(*(store.commit_grouped(write) for _ in range(64)))

    await time_calls(
        "commit_1", "begin, tenant scope, insert, commit: four round trips", lambda: store.commit(write), 1
    )
    await time_calls("commit_64", "the same with 64 rows, per row", group, 64)
    owner.cancel()
    admin = await asyncpg.connect(host=host, user="postgres", database="memory")
    await admin.execute(ONE_TRIP)
    await admin.close()

    async def in_one_trip() -> None:
        async with pool.acquire() as connection:
            await connection.execute(
                "select remember($1, $2, $3, $4)", f"{{{tenant}}}", [tenant], [uuid4()], [STUB_ANSWER]
            )

    await time_calls("commit_1_one_trip", "the same inside a function of the invoker, one trip", in_one_trip, 1)
    await pool.close()


async def time_calls(figure: str, note: str, work: Callable[[], Awaitable[None]], per: int) -> None:
    rounds = 300
    for _ in range(30):
        await work()
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(rounds):
        await work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    report(f"{figure}.wall", wall / rounds / per * 1e6, "us", "lower", note)
    report(f"{figure}.client_cpu", cpu / rounds / per * 1e6, "us", "lower", note)
