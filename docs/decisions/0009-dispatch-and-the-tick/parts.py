"""Processor time of the parts of a tick, each alone: forms of the commit, fences, facts and seals."""

import json
import os
import struct
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import uuid_utils
from asyncpg.pgproto.pgproto import UUID as DriverUUID  # noqa: N811
from facts import REQUEST, AttributeFacts, Chain, KeywordFacts, Run, Sealer, decide, draw_salts
from ground import Ground
from messages import SHARDS, Features
from report import report
from store import CALL, FENCES, check_fence, connect, create

from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.one_trip import run_call

ROWS, CALLS, ROUNDS = 200, 20, 4
TENANTS = [uuid4() for _ in range(50)]
SCOPE = "{" + ",".join(map(str, TENANTS)) + "}"
COLUMNS = "(tenant_id, run_id, first_sequence, entry_count, payload, commitments)"
HEAD = struct.Struct(">16s16sqh")
#: Forms in which the rows of a tick may travel: name -> arguments behind the scope, and the insert's source.
FORMS: dict[str, tuple[str, str]] = {
    "six_arrays": (
        "uuid[], uuid[], bigint[], smallint[], bytea[], bytea[]",
        "SELECT * FROM unnest($2, $3, $4, $5, $6, $7)",
    ),
    "packed_rows": (
        "bytea[]",
        """SELECT encode(substring(row from 1 for 16), 'hex')::uuid, encode(substring(row from 17 for 16), 'hex')::uuid,
            substring(row from 33 for 8)::bigint, substring(row from 41 for 2)::smallint,
            substring(row from 107), substring(row from 43 for 64) FROM unnest($2) AS row""",
    ),
    "packed_heads": (
        "bytea, int, bytea[], bytea[]",
        """SELECT encode(substring($2 from 42 * n + 1 for 16), 'hex')::uuid,
            encode(substring($2 from 42 * n + 17 for 16), 'hex')::uuid,
            substring($2 from 42 * n + 33 for 8)::bigint, substring($2 from 42 * n + 41 for 2)::smallint,
            $4[n + 1], $5[n + 1] FROM generate_series(0, $3 - 1) AS n""",
    ),
    "json_heads": (
        "json, bytea[], bytea[]",
        """SELECT tenant, run, sequence, count, $3[n], $4[n] FROM json_to_recordset($2)
            AS head (n int, tenant uuid, run uuid, sequence bigint, count smallint)""",
    ),
}


def processor_seconds(pid: int) -> float:
    """Nanoseconds on a processor, of a process of one thread."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def columns(kind: Callable[[bytes], Any]) -> tuple[Any, ...]:
    return (
        SCOPE,
        [kind(TENANTS[n % len(TENANTS)].bytes) for n in range(ROWS)],
        [kind(uuid_utils.uuid7().bytes) for _ in range(ROWS)],
        [1] * ROWS,
        [2] * ROWS,
        [os.urandom(450) for _ in range(ROWS)],
        [os.urandom(64) for _ in range(ROWS)],
    )


def in_form(form: str) -> tuple[Any, ...]:
    if form == "six_arrays":
        return columns(DriverUUID)
    _, tenants, runs, sequences, counts, payloads, commitments = columns(lambda raw: UUID(bytes=raw))
    if form == "json_heads":
        heads = [
            {"n": n, "tenant": str(tenant), "run": str(run), "sequence": sequence, "count": count}
            for n, (tenant, run, sequence, count) in enumerate(zip(tenants, runs, sequences, counts, strict=True), 1)
        ]
        return SCOPE, json.dumps(heads), payloads, commitments
    rows = zip(tenants, runs, sequences, counts, strict=True)
    heads = [HEAD.pack(tenant.bytes, run.bytes, sequence, count) for tenant, run, sequence, count in rows]
    if form == "packed_heads":
        return SCOPE, b"".join(heads), ROWS, payloads, commitments
    return SCOPE, [head + own + payload for head, own, payload in zip(heads, commitments, payloads, strict=True)]


async def report_calls(
    figure: str, connection: asyncpg.Connection, call: str, make: Callable[[], tuple[Any, ...]], *, rows: int, note: str
) -> None:
    """Least processor time of several rounds, of the client and of its backend."""
    statement = await connection.prepare(call)
    pid, best = connection.get_server_pid(), (float("inf"), 0.0, 0.0)
    await statement.fetch(*make())
    for _ in range(ROUNDS):
        ready = [make() for _ in range(CALLS)]
        client, server = time.process_time(), processor_seconds(pid)
        for values in ready:
            await statement.fetch(*values)
        client, server = time.process_time() - client, processor_seconds(pid) - server
        best = min(best, (client + server, client, server))
    total, client, server = (seconds / CALLS / rows * 1e6 for seconds in best)
    unit = "us/row" if rows > 1 else "us/tick"
    report(figure, total, unit, "lower", f"client {client:.2f}, Postgres {server:.2f}; {note}")


async def report_commits(ground: Ground, admin: asyncpg.Connection, password: str) -> None:
    url = ground.url("engine", password)
    for fence in ("share", "key_share", "advisory"):
        await create(admin, Features(rls=True, tenants=50, partitioned=True, fence=fence))
        connection, commit = await connect(url)
        await check_fence(admin, commit, in_form("six_arrays"))
        await connection.close()
    await create(admin, Features(rls=True, tenants=50, partitioned=True))
    connection, _ = await connect(url)
    planning = await asyncpg.connect(url, server_settings={"plan_cache_mode": "force_custom_plan"})
    for form, (arguments, source) in FORMS.items():
        await admin.execute(f"""
            CREATE FUNCTION {form}(text, {arguments}) RETURNS void LANGUAGE plpgsql AS $form$ BEGIN
                PERFORM set_config('app.tenants', $1, true);
                INSERT INTO journal {COLUMNS} {source};
            END $form$""")
        call = calling(form, arguments.count(",") + 2)
        make = partial(in_form, form)
        await report_calls(f"commit.{form}", connection, call, make, rows=ROWS, note=f"{ROWS} rows, RLS, partitions")
    call, make = calling("six_arrays", 7), partial(in_form, "six_arrays")
    await report_calls("commit.six_arrays.planned_at_each_call", planning, call, make, rows=ROWS, note="custom plans")
    make = partial(columns, lambda raw: UUID(bytes=raw))
    await report_calls("commit.six_arrays.python_ids", connection, call, make, rows=ROWS, note="ids as uuid.UUID")
    await admin.execute("ALTER TABLE journal DISABLE ROW LEVEL SECURITY")
    make = partial(in_form, "six_arrays")
    await report_calls("commit.six_arrays.no_rls", connection, call, make, rows=ROWS, note="RLS off")
    await planning.close()
    for name, body in FENCES.items():
        await admin.execute(f"""
            CREATE FUNCTION fence_{name}(text, smallint[], bigint[]) RETURNS smallint[] LANGUAGE plpgsql AS $fence$
            DECLARE lost smallint[]; BEGIN {body} RETURN NULL; END $fence$""")
        for shards in (1, SHARDS):
            values = ("{}", list(range(shards)), [1] * shards)
            note = f"{shards} shards of a tick"
            call = calling(f"fence_{name}", 3)
            await report_calls(f"fence.{name}.{shards}", connection, call, lambda v=values: v, rows=1, note=note)
    empty: tuple[Any, ...] = ("{}", *([],) * 13)
    await report_calls("call.own_connection", connection, CALL, lambda: empty, rows=1, note="the commit, nothing in it")
    await connection.close()
    async with sql_engine(url) as engine:
        await run_call(engine, CALL, empty)
        best = float("inf")
        for _ in range(ROUNDS):
            began = time.process_time()
            for _ in range(CALLS):
                await run_call(engine, CALL, empty)
            best = min(best, time.process_time() - began)
    report(
        "call.pooled",
        best / CALLS * 1e6,
        "us/tick",
        "lower",
        "client alone, by SQLAlchemy's pool, as one_trip does",
    )


def calling(function: str, arguments: int) -> str:
    return f"SELECT {function}({', '.join(f'${n + 1}' for n in range(arguments))})"


def micro(figure: str, work: Callable[[], Any], note: str, times: int = 4_000) -> None:
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(times):
            work()
        best = min(best, time.process_time() - began)
    report(figure, best / times * 1e6, "us", "lower", note)


async def report_facts() -> None:
    tenant = uuid4()
    sealer = Sealer([tenant])
    await sealer.load()
    for name, facts in (("keywords", KeywordFacts()), ("attributes", AttributeFacts())):
        facts.begin(1_700_000_000, 0)
        micro(f"facts.{name}.answered", lambda f=facts: f.answered("steps/3", REQUEST), "100 bytes")
        micro(f"facts.{name}.intended", lambda f=facts: f.intended("steps/4", REQUEST), "100 bytes, with their digest")
    entries = [facts.answered("steps/3", REQUEST), facts.intended("steps/4", REQUEST)]
    endless = Chain(10**12)
    micro("decide", lambda: (decide(endless, entries[0]), decide(endless, entries[1])), "answer and intent")
    run = Run(0, uuid4(), DriverUUID(tenant.bytes), 0, 0, endless, 0.0, entries=entries)
    await sealer.check(run)
    salts = draw_salts(2)
    micro("salts.each", lambda: os.urandom(32), "one draw per salt")
    micro("salts.tick", lambda: draw_salts(1_000), "1,000 salts in one draw", 200)
    micro("seal.packed", lambda: sealer.packed(run, salts, 0), "a row of two entries, key ring asked per row")

    def ready() -> None:
        sealer.packed_with_ready_key(run, salts, 0)

    best = float("inf")
    for _ in range(ROUNDS):
        sealer.begin_tick(4_000)
        began = time.process_time()
        for _ in range(4_000):
            ready()
        best = min(best, time.process_time() - began)
    report("seal.ready_keys", best / 4_000 * 1e6, "us", "lower", "the same, key and nonces at hand")
    began = time.process_time()
    for _ in range(4_000):
        await sealer.house(run)
    spent = (time.process_time() - began) / 4_000 * 1e6
    report("seal.house", spent, "us", "lower", "the same as JournalCodec does it")


async def report_parts(ground: Ground, admin: asyncpg.Connection, password: str) -> None:
    await report_facts()
    await report_commits(ground, admin, password)
