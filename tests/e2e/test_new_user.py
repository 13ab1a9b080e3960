"""The first day with a mesh: a tenant, a colleague, a refusal and proof of it, all by the command line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.launcher.layout import DataDir
from tests.e2e.terminal import Terminal, browser_of
from tests.support.mesh import RunningMesh
from tests.support.oidc_provider import CLIENT_ID, OidcProvider, running_oidc_provider

pytestmark = pytest.mark.timeout(180)
_NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OidcProvider]:
    with running_oidc_provider(tmp_path_factory.mktemp("oidc")) as running:
        yield running


def test_a_colleague_is_invited_refused_seen_and_the_refusal_proved_offline(
    mesh: RunningMesh, provider: OidcProvider, tmp_path: Path
) -> None:
    made = json.loads(mesh.comitia("tenant", "create", "first-day", "-o", "json").stdout)
    admin = Terminal(mesh, tmp_path / "admin")
    admin.settings["COMITIA_API_KEY"] = made["admin_api_key"]
    admin("issuer", "add", provider.issuer, CLIENT_ID)
    invited = json.loads(admin("user", "invite", "bea@example.com", "--role", "auditor", "-o", "json").stdout)

    bea = Terminal(mesh, tmp_path / "bea")
    bea("login", "first-day", BROWSER=browser_of("bea@example.com"))
    agent = tmp_path / "ada.yaml"
    agent.write_text("name: Ada\ninstructions: Be brief.\n")
    refused = bea("agent", "create", str(agent), check=1)
    for told in ("agents.write", "admin or tenant_user", "ask an administrator", "[PERMISSION_MISSING]"):
        assert told in refused.stderr

    # The trail is at most some seconds behind.
    entries: list[Any] = []
    while not entries:
        listed = admin("audit", "list", "--actor", invited["user_id"], "--action", "agents.write", "-o", "json").stdout
        entries = json.loads(listed)
    [found] = entries
    entry, index = found["entry"], found["index"]
    assert (entry["outcome"], entry["reason"]) == ("AUDIT_OUTCOME_REFUSED", "PERMISSION_MISSING")

    # An auditor may fetch the proof; the keys to trust come by another way, from whoever runs the mesh.
    keys = tmp_path / "audit_jwks.json"
    keys.write_bytes(DataDir(mesh.data_dir).audit_jwks.read_bytes())
    proved = bea("audit", "prove", index, "--keys", str(keys))
    assert "is in the signed tree" in proved.stdout
    trail = tmp_path / "trail.jsonl"
    bea("audit", "export", str(trail))
    assert "the trail only grew since then" in bea("audit", "compare", str(trail), "--keys", str(keys)).stdout
    offline = Terminal(mesh, tmp_path / "nobody")
    offline.settings["COMITIA_URL"] = _NOWHERE
    assert "the export is whole" in offline("audit", "verify", str(trail), "--keys", str(keys)).stdout
    trail.write_text(trail.read_text().replace("PERMISSION_MISSING", "PERMISSION_GRANTED", 1))
    forged = offline("audit", "verify", str(trail), "--keys", str(keys), check=1).stdout
    assert f"entry {index}: this entry was changed" in forged
