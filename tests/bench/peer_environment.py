"""Environments for what benches compare with: each installed once, below `.out/`, from the index that `uv` uses."""

import subprocess
import sys
from pathlib import Path
from typing import Final

_HOME: Final = Path(__file__).parents[2] / ".out" / "bench-peers"
_INSTALL_SECONDS: Final = 240.0


def installed(name: str, packages: tuple[str, ...]) -> Path:
    """Gives the Python of a peer's environment. Raises: SubprocessError, OSError: it cannot be installed."""
    home = _HOME / name
    python = home / "bin" / "python"
    if not (home / ".ready").exists():
        uv = Path(sys.executable).with_name("uv")
        for command in (
            (uv, "venv", "--quiet", "--clear", "--python", sys.executable, home),
            (uv, "pip", "install", "--quiet", "--python", python, *packages),
        ):
            subprocess.run(command, check=True, timeout=_INSTALL_SECONDS, capture_output=True)
        (home / ".ready").touch()
    return python
