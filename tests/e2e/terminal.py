"""The command line of one person, and a browser for it."""

import subprocess
import sys
from pathlib import Path

from tests.support.mesh import CHECKOUT, RunningMesh


class Terminal:
    """The command line of one person, with settings of their own."""

    def __init__(self, mesh: RunningMesh, folder: Path) -> None:
        self.mesh = mesh
        self.settings = {"COMITIA_CONFIG_DIR": str(folder), "COMITIA_URL": mesh.url, "COMITIA_API_KEY": ""}

    def __call__(self, *arguments: str, check: int | None = 0, **more: str) -> subprocess.CompletedProcess[str]:
        return self.mesh.comitia(*arguments, check=check, **{**self.settings, **more})

    @property
    def file(self) -> Path:
        return Path(self.settings["COMITIA_CONFIG_DIR"], "logins.json")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [str(Path(sys.executable).with_name("comitia")), *arguments]
        return subprocess.Popen(
            command,
            env={**self.mesh.environment, **self.settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=CHECKOUT,
        )


def browser_of(email: str) -> str:
    return f"{sys.executable} -m tests.support.oidc_browser {email} %s"
