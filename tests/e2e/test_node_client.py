"""A client in Node, made from the protos alone, starts a session and follows it through the edge."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.conftest import Tenant
from tests.support.mesh import CHECKOUT, RunningMesh
from tests.support.node import installed, node_environment, node_folder

SOURCE: Final = Path(__file__).parent / "node"


@pytest.fixture(scope="module")
def client_folder() -> Path:
    """Installs the client."""
    return installed(SOURCE)


def follow(folder: Path, mesh: RunningMesh, token: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the client."""
    node = node_folder()
    assert node is not None
    command = ["node", "session.mjs", mesh.target, f"{CHECKOUT}/protos", f"{CHECKOUT}/third_party/protos", *arguments]
    variables = {**node_environment(node), "COMITIA_TOKEN": token}
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=40, check=False)


async def test_a_node_client_starts_a_session_and_follows_it(
    mesh: RunningMesh, tenant: Tenant, client_folder: Path
) -> None:
    await tenant.cast("Ada")
    tenant.says("Rivers meet. They argue!")
    token = await tenant.client.identity.token()

    done = follow(client_folder, mesh, token, "Ada", f"Rivers {tenant.mark}")

    assert done.returncode == 0, done.stderr
    events: list[Mapping[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = [event["kind"] for event in events if event["kind"] != "text_delta"]
    assert kinds == ["session_started", "turn_started", "turn_completed", "round_scored", "session_ended"]
    [turn] = [event["turn_completed"] for event in events if event["kind"] == "turn_completed"]
    assert (turn["agent_name"], turn["output"]["content"]) == ("Ada", "Rivers meet. They argue!")
    ended = events[-1]["session_ended"]
    assert ended["state"] == "SESSION_STATE_SUCCEEDED"
    assert (await tenant.client.sessions.get(ended["session_id"])).turn_count == 1


async def test_a_node_client_is_told_why_it_is_refused(mesh: RunningMesh, tenant: Tenant, client_folder: Path) -> None:
    token = await tenant.client.identity.token()
    done = follow(client_folder, mesh, token, "Nobody", "Rivers")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.strip() == "NOT_FOUND: agents[0]: agent 'Nobody' does not exist"
    done = follow(client_folder, mesh, "nonsense", "Ada", "Rivers")
    assert done.stderr.startswith("UNAUTHENTICATED: ")


def test_the_lock_file_names_no_registry() -> None:
    lock = json.loads((SOURCE / "package-lock.json").read_text(encoding="utf-8"))
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages
    assert all("resolved" not in package and package["integrity"] for package in packages.values())
