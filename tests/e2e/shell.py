"""The command line with a key of its own, and what many of its tests make with it."""

import json
from pathlib import Path
from typing import Any

from comitia_sdk.sync import Client
from tests.support.mesh import RunningMesh

AGENT = """
name: {name}
version: 1.0.0
instructions: Speak of rivers.
memory: {{recent_turns: 3}}
"""
THINK = """
name: think
version: 1.0.0
nodes:
  - {id: answer, agent: {agent: Ada, prompt: Why rivers?}}
"""


class Shell:
    """The command line with a key of its own."""

    def __init__(self, mesh: RunningMesh, key: str) -> None:
        self.mesh = mesh
        self.key = key

    def run(self, *arguments: str, code: int = 0) -> str:
        """Gives what a command printed."""
        done = self.mesh.comitia(*arguments, check=code, COMITIA_URL=self.mesh.url, COMITIA_API_KEY=self.key)
        assert not done.stderr or code, done.stderr
        return done.stdout if code == 0 else done.stderr

    def json(self, *arguments: str) -> Any:
        """Gives the JSON that a command printed."""
        return json.loads(self.run(*arguments, "-o", "json"))


def thinking(mesh: RunningMesh, tenant: str, folder: Path) -> Shell:
    """Gives the command line of a tenant of its own, with a workflow of one answer."""
    with Client(mesh.url, api_key=mesh.admin_key) as operator:
        shell = Shell(mesh, operator.tenants.create(tenant).admin_api_key)
    for noun, text in (("agent", AGENT.format(name="Ada")), ("workflow", THINK)):
        file = folder / f"{noun}.yaml"
        file.write_text(text)
        shell.run(noun, "create", str(file))
    return shell
