"""The snippets of README.md, docs/budgets.md and docs/models.md, run as they stand on a whole mesh."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from comitia_sdk import Client
from services.launcher import ports, status
from services.launcher.layout import DataDir, write_state
from tests.integration.conftest import free_port
from tests.support.mesh import RunningMesh, running_provider
from tests.support.oidc_provider import running_oidc_provider
from tests.support.providers.fake import KEY
from tests.support.readme import BUDGETS, CHECKOUT, MODELS, Snippet, snippets

BIN = Path(sys.executable).parent
SETUP = "".join(snippet.code for snippet in snippets() if snippet.run == "setup")
ON_A_MESH = [snippet for snippet in (*snippets(), *snippets(BUDGETS)) if snippet.run == "mesh"]
WITH_PROVIDER = [snippet for snippet in snippets() if snippet.run == "provider"]
[OWN_KEY] = [snippet for snippet in snippets() if snippet.run == "own-key"]


def run(snippet: Snippet, folder: Path, environment: Mapping[str, str]) -> str:
    """Runs a snippet in a folder; gives what it printed."""
    if snippet.language == "python":
        command, code = [sys.executable, "-"], snippet.code
    else:
        command = ["bash", "-euo", "pipefail"]
        code = SETUP + snippet.code if snippet.run == "mesh" else snippet.code
    variables = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "NO_COLOR": "1", **environment}
    done = subprocess.run(
        command, input=code, cwd=folder, env=variables, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    assert snippet.shows in done.stdout, f"{code}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def reader(mesh: RunningMesh) -> dict[str, str]:
    """Gives the environment of a reader with a tenant of her own."""
    with Client(mesh.url, api_key=mesh.admin_key) as client:
        key = client.tenants.create("reader").admin_api_key
    return {"COMITIA_URL": mesh.url, "COMITIA_API_KEY": key, "PORT": str(free_port())}


@pytest.mark.parametrize("snippet", ON_A_MESH, ids=lambda snippet: snippet.name)
def test_a_snippet_runs_as_it_stands(snippet: Snippet, reader: dict[str, str], tmp_path: Path) -> None:
    run(snippet, tmp_path, reader)


def test_models_are_added_routed_tried_and_taken_back(
    mesh: RunningMesh, reader: dict[str, str], tmp_path: Path
) -> None:
    """The snippets are one walk, typed into one shell."""
    walk = replace(snippets(MODELS)[0], code="".join(snippet.code for snippet in snippets(MODELS)))
    shown = run(walk, tmp_path, {**reader, "OPENAI_API_KEY": KEY, "MODEL_URL": f"{mesh.provider.address}/v1"})
    for snippet in snippets(MODELS):
        assert snippet.shows in shown
    assert "x-comitia-cache: hit" in shown.lower()


def test_a_colleague_signs_in_by_a_provider_and_proves_a_refusal(
    mesh: RunningMesh, reader: dict[str, str], tmp_path: Path
) -> None:
    """The snippets are one walk, typed into one shell."""
    walk = replace(WITH_PROVIDER[0], code="".join(snippet.code for snippet in WITH_PROVIDER))
    with running_oidc_provider(tmp_path) as provider:
        person = {
            "PROVIDER": provider.issuer,
            "TENANT": "reader",
            "BROWSER": f"{sys.executable} {CHECKOUT}/tests/support/oidc_browser.py ann@example.com %s",
            "COMITIA_CONFIG_DIR": str(tmp_path / "settings"),
            "AUDIT_KEYS": str(DataDir(mesh.data_dir).audit_jwks),
        }
        shown = run(walk, tmp_path, {**reader, **person})
    assert all(snippet.shows in shown for snippet in WITH_PROVIDER)
    for told in ("signed in to reader as ann@example.com", "refused", "is in the signed tree", "the export is whole"):
        assert told in shown


def test_the_address_and_key_of_the_mesh_on_this_machine_need_no_setting(mesh: RunningMesh, tmp_path: Path) -> None:
    snippet = next(
        one for one in snippets() if one.run == "mesh" and one.language == "python" and "comitia_sdk" in one.code
    )
    run(snippet, tmp_path, {"COMITIA_DATA_DIR": str(mesh.data_dir)})


@pytest.fixture
def own_machine() -> Iterator[dict[str, str]]:
    """Gives the environment of a machine with a key of OpenAI, and with a data directory that chose free ports."""
    # Not pytest's tmp_path: as root, Postgres runs as another user, who must be able to enter the folder.
    with tempfile.TemporaryDirectory(prefix="comitia-readme-") as name, running_provider() as provider:
        folder = Path(name)
        folder.chmod(0o755)
        with ports.PortClaims() as claims:
            chosen = ports.choose(remembered={}, asked={}, claims=claims, random_only=True, dice=Random())
        write_state(DataDir(folder), {"ports": chosen})
        try:
            yield {
                "COMITIA_DATA_DIR": name,
                "OPENAI_API_KEY": KEY,
                "OPENAI_BASE_URL": f"{provider.address}/v1",
                "ANTHROPIC_API_KEY": "",
            }
        finally:
            status.down(folder)


def test_with_a_key_of_ones_own_the_debate_is_held_by_that_model(own_machine: dict[str, str], tmp_path: Path) -> None:
    shown = run(OWN_KEY, tmp_path, own_machine)

    assert "models, the first that answers: openai/gpt-4o-mini" in shown
    assert "succeeded" in shown
    assert CHECKOUT not in Path(own_machine["COMITIA_DATA_DIR"]).parents
