"""A fake mesh, clients of it, and the command line in this process."""

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from comitia_sdk.aio import AsyncClient
from comitia_sdk.cli.main import run
from comitia_sdk.sync import Client
from tests.support.fake_mesh import ADMIN_KEY, FakeMesh, fake_mesh


@pytest.fixture
def mesh() -> Iterator[FakeMesh]:
    """Gives a fake mesh of the test's own."""
    with fake_mesh() as running:
        yield running


@pytest.fixture
async def client(mesh: FakeMesh) -> AsyncIterator[AsyncClient]:
    """Gives an asynchronous client of its administrator."""
    async with AsyncClient(mesh.url, api_key=ADMIN_KEY) as opened:
        yield opened


@pytest.fixture
def blocking(mesh: FakeMesh) -> Iterator[Client]:
    """Gives a blocking client of its administrator."""
    with Client(mesh.url, api_key=ADMIN_KEY) as opened:
        yield opened


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


Comitia = Callable[..., Done]


@pytest.fixture
def comitia(
    mesh: FakeMesh, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Comitia:
    """Gives the command line, which reaches the fake mesh by the environment."""
    monkeypatch.setenv("COMITIA_URL", mesh.url)
    monkeypatch.setenv("COMITIA_API_KEY", ADMIN_KEY)
    monkeypatch.setenv("COMITIA_DATA_DIR", str(tmp_path / "no-mesh"))
    monkeypatch.setenv("NO_COLOR", "1")

    def command(*arguments: str, code: int = 0, lines: int | None = 1) -> Done:
        monkeypatch.setattr(sys, "argv", ["comitia", *arguments])
        with pytest.raises(SystemExit) as ended:
            run()
        written = capsys.readouterr()
        assert ended.value.code == code, f"{arguments}: {ended.value.code}\n{written.out}\n{written.err}"
        assert "Traceback" not in written.err
        if code and lines is not None:
            assert len(written.err.strip().splitlines()) <= lines, written.err
        return Done(code, written.out, written.err.strip())

    return command
