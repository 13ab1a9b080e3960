"""What `prepare` makes for a mesh of containers, on a real Postgres, is what a service starts by."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from services.launcher.health import grpc_serving
from services.launcher.services import SERVICES
from tests.integration.conftest import free_port


def environment(postgres: str) -> dict[str, str]:
    return {**os.environ, "COMITIA_POSTGRES_URL": postgres, "COMITIA_NATS_URL": "nats://127.0.0.1:1"}


def hand_out(postgres: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [
            *(sys.executable, "-m", "services.launcher.hand_out"),
            *("--data-dir", folder / "keys", "--to", folder / "handed", "--wait-seconds", "5"),
        ],
        env=environment(postgres),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


@pytest.fixture(scope="module")
def prepared(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mesh")
    done = hand_out(postgres, folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.split("\n")) == sorted(["", *(f"{service} is ready" for service in SERVICES)])
    return folder


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_gets_into_its_database_and_no_other(service: str, prepared: Path) -> None:
    url = (prepared / "handed" / service / f"comitia_{service}_database_url").read_text()
    connection = await asyncpg.connect(url)
    await connection.close()
    other = "policy" if service == "cost" else "cost"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(url.replace(f"/comitia_{service}", f"/comitia_{other}"))


async def test_a_service_starts_by_what_it_was_handed(prepared: Path, tmp_path: Path) -> None:
    port = free_port()
    # A container sees its directory at another place; the rest stays as it was handed out.
    moved = {
        f"COMITIA_COST_{name}": str(prepared / "handed" / place)
        for name, place in {
            "JWKS_PATH": "keyset/jwks.json",
            "WORKLOAD_KEY_PATH": "cost/workload.jwk",
            "WORKLOAD_JWKS_PATH": "cost/workload_jwks.json",
            "KEK_PATH": "cost/kek",
        }.items()
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cost"),
        env={
            **moved,
            "COMITIA_SECRETS_DIR": str(prepared / "handed" / "cost"),
            "COMITIA_COST_LISTEN": f"127.0.0.1:{port}",
            "COMITIA_COST_METRICS_LISTEN": "127.0.0.1:0",
            "COMITIA_COST_GUARD_PATH": str(tmp_path / "guard"),
            "COMITIA_COST_GATEWAY_TARGET": "127.0.0.1:1",
            "COMITIA_COST_GUARD_WAIT_SECONDS": "0",
        },
        stdout=subprocess.DEVNULL,
    )
    try:
        serving = grpc_serving(port)
        async with asyncio.timeout(60):
            while not await serving():
                assert process.returncode is None
                await asyncio.sleep(0.05)
    finally:
        process.terminate()
        ended = await process.wait()
    assert ended == 0


def test_a_second_time_nothing_is_made_anew(postgres: str, prepared: Path) -> None:
    before = {file: file.read_bytes() for file in (prepared / "handed").rglob("*") if file.is_file()}
    done = hand_out(postgres, prepared)
    assert done.returncode == 0
    assert {file: file.read_bytes() for file in (prepared / "handed").rglob("*") if file.is_file()} == before


def test_a_postgres_that_is_away_is_said_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "services.launcher.hand_out"),
            *("--data-dir", tmp_path / "keys", "--to", tmp_path / "handed", "--wait-seconds", "0"),
        ],
        env=environment("postgresql://postgres@127.0.0.1:1/postgres"),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 1
    assert re.fullmatch(r"Postgres takes no connections: .*\n", done.stderr)
