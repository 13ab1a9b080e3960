"""What `tests.bench.engine` stands on: Postgres and NATS as `comitia up` runs them, and the processes under measure."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any, Self

import asyncpg

from services.launcher.child import ChildProcess, ChildSpec
from services.launcher.embedded import nats, postgres
from services.launcher.environment import ordinary_environment
from services.meshkit.crypto.kek_file import create_kek_file
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import DatabaseUrls, RolePasswords, provision
from services.orchestrator.engine.run import SHARDS
from tests.integration.conftest import free_port

_TEMPLATE = "comitia_bench"


class Child:
    """A process that is spoken to in lines of JSON."""

    def __init__(self, module: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "MALLOC_ARENA_MAX": "2", "GRPC_VERBOSITY": "ERROR"},
        )
        self.pid = self._process.pid

    def say(self, **asked: Any) -> None:
        """Asks something."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()

    async def hear(self) -> Any:
        """Waits for an answer."""
        assert self._process.stdout is not None
        line = await asyncio.to_thread(self._process.stdout.readline)
        if not line:
            raise SystemExit(f"a process of the bench ended with {self._process.wait()}")
        return json.loads(line)

    async def ask(self, do: str, **asked: Any) -> Any:
        """Asks something and waits for the answer."""
        self.say(do=do, **asked)
        return await self.hear()

    def kill(self) -> None:
        """Ends it at once, as a crash does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


@dataclass(slots=True, kw_only=True)
class Engines:
    """Engines on a database of their own, and the worker of all of them."""

    ground: "Ground"
    urls: DatabaseUrls
    admin_url: str
    engines: list[Child] = field(default_factory=list[Child])
    doors: list[tuple[str, list[Any]]] = field(default_factory=list[tuple[str, list[Any]]])
    workers: list[Child] = field(default_factory=list[Child])

    @property
    def pids(self) -> dict[str, int]:
        """The processes beside the engines."""
        [worker] = self.workers
        return {"postgres": self.ground.postgres_pid, "worker": worker.pid}

    async def open(self, engines: int, *, delay_seconds: float = 0.0, names: tuple[str, ...] = ("one", "two")) -> Self:
        """Starts engines that share the shards evenly."""
        made = [Child("tests.bench.engine_process") for _ in range(engines)]
        self.engines += made
        for name, engine in zip(names, made, strict=False):
            folder = self.ground.folder / token_hex(4)
            folder.mkdir()
            engine.say(
                name=name,
                app=self.urls.app,
                maintenance=self.urls.maintenance,
                nats=self.ground.nats_url,
                kek=str(self.ground.kek),
                folder=str(folder),
                delay_seconds=delay_seconds,
                shards=SHARDS // engines,
            )
        for engine in made:
            answer = await engine.hear()
            self.doors.append((answer["target"], answer["metadata"]))
        return self

    def work(self, credits_: int = 10_000) -> None:
        """Has a worker take the steps of all engines."""
        worker = Child("tests.bench.engine_worker")
        self.workers.append(worker)
        worker.say(engines=self.doors, credits=credits_)

    def kill(self) -> None:
        """Ends everything."""
        for child in (*self.engines, *self.workers):
            child.kill()
        self.engines.clear()
        self.workers.clear()
        self.doors.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """The servers."""

    folder: Path
    admin_url: str
    nats_url: str
    postgres_pid: int
    kek: Path

    def url(self, database: str) -> str:
        """Address of a database as superuser."""
        return f"{self.admin_url.rpartition('/')[0]}/{database}"

    @asynccontextmanager
    async def engines(self, count: int, *, delay_seconds: float = 0.0, worker: bool = True) -> AsyncGenerator[Engines]:
        """Starts engines on a fresh database, and takes all of it away at the end."""
        async with self.database() as engines:
            await engines.open(count, delay_seconds=delay_seconds)
            if worker:
                engines.work()
            yield engines

    @asynccontextmanager
    async def database(self) -> AsyncGenerator[Engines]:
        """Makes a fresh database for engines; ends them with it."""
        name = f"{_TEMPLATE}_{token_hex(4)}"
        await self.administer(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
        urls = DatabaseUrls(
            **{
                role: f"{getattr(self._template, role).rpartition('/')[0]}/{name}"
                for role in ("app", "maintenance", "migrator")
            }
        )
        engines = Engines(ground=self, urls=urls, admin_url=self.url(name))
        try:
            yield engines
        finally:
            engines.kill()
            await self.administer(f"DROP DATABASE {name} WITH (FORCE)")

    async def administer(self, statement: str) -> None:
        """Runs a statement as superuser."""
        connection = await asyncpg.connect(self.admin_url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    _template: DatabaseUrls = field(repr=False)


@asynccontextmanager
async def ground() -> AsyncGenerator[Ground]:
    """Starts both servers in a temporary folder, and ends them."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="comitia-bench-")))
        folder.chmod(0o755)  # noqa: ASYNC240  # for the account that Postgres runs as where this is root
        environment = ordinary_environment({})
        room = postgres.PostgresRoom(
            directory=folder / "postgres", port=free_port(), log=folder / "postgres.log", password=token_hex(16)
        )
        nats_port, token = free_port(), token_hex(16)
        children: dict[str, ChildProcess] = {}
        for spec in (
            await postgres.prepare_postgres(room, environment),
            nats.prepare_nats(
                folder / "nats", port=nats_port, token=token, log=folder / "nats.log", environment=environment
            ),
        ):
            children[spec.name] = child = ChildProcess(spec)
            stack.push_async_callback(child.stop)
            await _until_it_serves(child, spec)
        passwords = RolePasswords(app=token_hex(16), maintenance=token_hex(16), migrator=token_hex(16))
        urls = await provision(room.admin_url, _TEMPLATE, passwords)
        await migrate("services.orchestrator", urls.migrator)
        kek = folder / "kek"
        create_kek_file(kek)
        yield Ground(
            folder=folder,
            admin_url=room.admin_url,
            nats_url=nats.nats_url(nats_port, token),
            postgres_pid=children["postgres"].pid,
            kek=kek,
            _template=urls,
        )


async def _until_it_serves(child: ChildProcess, spec: ChildSpec) -> None:
    async with asyncio.timeout(30):
        while not await spec.probe():
            if not child.alive:
                raise SystemExit(f"{spec.name} did not start: {child.last_words()}")
            await asyncio.sleep(0.02)
