"""What `prepare` makes for a mesh of containers, on a real Postgres that others use too."""

import asyncio
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from services.launcher.services import SERVICES
from tests.integration.conftest import drop_databases


@dataclass(frozen=True, slots=True)
class Prepared:
    """A mesh that was prepared: where its keys and settings lie, and what names of its databases begin with."""

    folder: Path
    prefix: str


def hand_out(postgres: str, folder: Path, *, prefix: str, wait_seconds: int = 5) -> "subprocess.CompletedProcess[str]":
    servers = {"COMITIA_POSTGRES_URL": postgres, "COMITIA_NATS_URL": "nats://127.0.0.1:1"}
    return subprocess.run(
        [
            *(sys.executable, "-m", "services.launcher.hand_out"),
            *("--data-dir", folder / "keys", "--to", folder / "handed", "--wait-seconds", str(wait_seconds)),
        ],
        env={**os.environ, **servers, "COMITIA_DATABASE_PREFIX": prefix},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


async def passwords(postgres: str, mesh: Prepared) -> list[asyncpg.Record]:
    """Gives the passwords of a mesh's roles as the server keeps them."""
    connection = await asyncpg.connect(postgres)
    try:
        question = "SELECT rolname, rolpassword FROM pg_authid WHERE starts_with(rolname, $1) ORDER BY rolname"
        return await connection.fetch(question, mesh.prefix)
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def prepared(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    mesh = Prepared(tmp_path_factory.mktemp("mesh"), f"mesh_{secrets.token_hex(4)}")
    done = hand_out(postgres, mesh.folder, prefix=mesh.prefix)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.split("\n")) == sorted(["", *(f"{service} is ready" for service in SERVICES)])
    yield mesh
    asyncio.run(drop_databases(postgres, [f"{mesh.prefix}_{service}" for service in SERVICES]))


def files(mesh: Prepared) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in (mesh.folder / "handed").rglob("*") if file.is_file()}


def test_a_second_time_nothing_is_made_anew(postgres: str, prepared: Prepared) -> None:
    before = files(prepared)
    done = hand_out(postgres, prepared.folder, prefix=prepared.prefix)
    assert done.returncode == 0
    assert files(prepared) == before


async def test_another_mesh_on_the_server_is_refused_the_databases_of_the_first(
    postgres: str, prepared: Prepared, tmp_path: Path
) -> None:
    before = await passwords(postgres, prepared)
    done = await asyncio.to_thread(hand_out, postgres, tmp_path, prefix=prepared.prefix)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        rf"the database {prepared.prefix}_(\w+) on this server belongs to another mesh; "
        r"name those of this mesh otherwise by COMITIA_DATABASE_PREFIX \(`postgres\.prefix` of the chart\), or, "
        rf"if it is gone for good, say `COMMENT ON ROLE {prepared.prefix}_\1_migrator IS NULL`, and so of all seven\n",
        done.stderr,
    )
    assert len(before) == 3 * len(SERVICES)
    assert await passwords(postgres, prepared) == before


def test_a_postgres_that_is_away_is_said_in_one_line(tmp_path: Path) -> None:
    done = hand_out("postgresql://postgres@127.0.0.1:1/postgres", tmp_path, prefix="", wait_seconds=0)
    assert done.returncode == 1
    assert re.fullmatch(r"Postgres takes no connections: .*\n", done.stderr)
