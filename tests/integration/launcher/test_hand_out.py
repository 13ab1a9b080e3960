"""What `prepare` makes for a mesh of containers, on a real Postgres."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from services.launcher.services import SERVICES


def hand_out(postgres: str, folder: Path, wait_seconds: int = 5) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [
            *(sys.executable, "-m", "services.launcher.hand_out"),
            *("--data-dir", folder / "keys", "--to", folder / "handed", "--wait-seconds", str(wait_seconds)),
        ],
        env={**os.environ, "COMITIA_POSTGRES_URL": postgres, "COMITIA_NATS_URL": "nats://127.0.0.1:1"},
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


def test_a_second_time_nothing_is_made_anew(postgres: str, prepared: Path) -> None:
    before = {file: file.read_bytes() for file in (prepared / "handed").rglob("*") if file.is_file()}
    done = hand_out(postgres, prepared)
    assert done.returncode == 0
    assert {file: file.read_bytes() for file in (prepared / "handed").rglob("*") if file.is_file()} == before


def test_a_postgres_that_is_away_is_said_in_one_line(tmp_path: Path) -> None:
    done = hand_out("postgresql://postgres@127.0.0.1:1/postgres", tmp_path, wait_seconds=0)
    assert done.returncode == 1
    assert re.fullmatch(r"Postgres takes no connections: .*\n", done.stderr)
