import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from services.launcher import layout
from services.launcher.errors import LauncherError
from services.launcher.layout import DataDir


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    found = DataDir(tmp_path / "data")
    layout.prepare(found)
    return found


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_data_directory_is_the_one_asked_for_else_the_variable_else_at_home(tmp_path: Path) -> None:
    variable = {"COMITIA_DATA_DIR": "/somewhere/else"}

    assert layout.find_data_dir(tmp_path, variable).root == tmp_path
    assert layout.find_data_dir(None, variable).root == Path("/somewhere/else")
    assert layout.find_data_dir(None, {}).root == Path.home() / ".comitia"


def test_only_the_owner_enters(data: DataDir) -> None:
    assert mode(data.root) == mode(data.logs) == mode(data.kek.parent) == 0o700


def test_a_place_that_cannot_be_written_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(LauncherError, match=r"data directory .*/file/data cannot be made .*--data-dir"):
        layout.prepare(DataDir(tmp_path / "file" / "data"))


def test_a_second_holder_is_told_the_pid_of_the_first(data: DataDir) -> None:
    with (
        layout.hold(data),
        pytest.raises(LauncherError, match=rf"a mesh already runs on {data.root} \(launcher pid {os.getpid()}\)"),
        layout.hold(data),
    ):
        pass


def test_the_holder_is_known_while_it_holds(data: DataDir) -> None:
    before = layout.holder(data)
    with layout.hold(data):
        during = layout.holder(data)

    assert (before, during, layout.holder(data)) == (None, os.getpid(), None)


def test_a_holder_that_was_killed_holds_nothing(data: DataDir) -> None:
    holds_and_dies = (
        "import os, sys; from pathlib import Path; from services.launcher import layout\n"
        "with layout.hold(layout.DataDir(Path(sys.argv[1]))): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", holds_and_dies, str(data.root)], check=False)

    with layout.hold(data):
        assert layout.holder(data) == os.getpid()


def test_state_is_remembered_privately(data: DataDir) -> None:
    layout.write_state(data, {"ports": {"edge": 7400}})

    assert layout.read_state(data) == {"ports": {"edge": 7400}}
    assert mode(data.state) == 0o600


@pytest.mark.parametrize("content", ["{", "[1]", ""])
def test_damaged_state_is_refused_in_a_sentence(data: DataDir, content: str) -> None:
    data.state.write_text(content)

    with pytest.raises(LauncherError, match="is damaged; delete it"):
        layout.read_state(data)
