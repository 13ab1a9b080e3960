"""The fence that keeps tests on this machine, and the count of what was skipped."""

import asyncio
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"


def test_another_machine_is_refused_before_a_packet_leaves(refused_addresses: list[str]) -> None:
    with socket.socket() as sock, pytest.raises(RuntimeError, match=r"192\.0\.2\.1"):
        sock.connect(("192.0.2.1", 443))
    assert refused_addresses == ["192.0.2.1"]
    refused_addresses.clear()


def test_a_name_elsewhere_is_not_even_looked_up(refused_addresses: list[str]) -> None:
    with pytest.raises(RuntimeError, match=r"api\.example\.com"):
        socket.create_connection(("api.example.com", 443))
    refused_addresses.clear()


async def test_asyncio_stays_here_too(refused_addresses: list[str]) -> None:
    with pytest.raises(RuntimeError, match=r"192\.0\.2\.1"):
        await asyncio.open_connection("192.0.2.1", 80)
    refused_addresses.clear()


def test_loopback_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


def run(folder: Path, body: str) -> tuple[int, str]:
    tests = folder / "tests" / "unit"
    tests.mkdir(parents=True)
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "tests" / "conftest.py").write_text(CONFTEST.read_text(encoding="utf-8"))
    (tests / "test_it.py").write_text(textwrap.dedent(body))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "tests"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_a_suite_that_skipped_everything_is_red(tmp_path: Path) -> None:
    code, output = run(
        tmp_path,
        """
        import pytest
        def test_it(): pytest.skip("needs a moon")
        """,
    )
    assert code == 1
    assert "RED: every test of tests/unit was skipped" in output


def test_a_test_that_swallows_the_refusal_still_fails(tmp_path: Path) -> None:
    code, output = run(
        tmp_path,
        """
        import socket
        def test_it():
            try: socket.create_connection(("192.0.2.1", 80))
            except RuntimeError: pass
        """,
    )
    assert code == 1
    assert "tried to reach 192.0.2.1" in output
