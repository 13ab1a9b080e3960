"""A person signs in from the command line, by a real provider, and works."""

import json
import re
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from comitia.gateway.v1 import identity_pb2
from comitia_sdk.errors import Unauthenticated
from comitia_sdk.sync import Client
from tests.e2e.terminal import Terminal, browser_of
from tests.support.mesh import RunningMesh
from tests.support.oidc_browser import Person
from tests.support.oidc_provider import CLIENT_ID, OidcProvider, running_oidc_provider

pytestmark = pytest.mark.timeout(180)
TENANT = "signers"


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OidcProvider]:
    with running_oidc_provider(tmp_path_factory.mktemp("oidc"), settings={"OIDC_ID_TOKEN_SECONDS": "600"}) as running:
        yield running


@pytest.fixture(scope="module")
def admin_key(mesh: RunningMesh, provider: OidcProvider) -> str:
    """Gives the admin key of a tenant that takes the provider's word."""
    with Client(mesh.url, api_key=mesh.admin_key) as operator:
        key = operator.tenants.create(TENANT).admin_api_key
    mesh.comitia("issuer", "add", provider.issuer, CLIENT_ID, COMITIA_API_KEY=key)
    return key


@pytest.fixture
def terminal(mesh: RunningMesh, tmp_path: Path) -> Terminal:
    return Terminal(mesh, tmp_path / "settings")


def refusal_of(client: Client) -> str:
    """Says why a call is refused; empty when it is not."""
    try:
        list(client.agents.list())
    except Unauthenticated as refusal:
        return refusal.reason
    return ""


def test_an_invited_person_signs_in_by_the_browser_works_and_signs_out(
    terminal: Terminal, admin_key: str, mesh: RunningMesh
) -> None:
    invited = mesh.comitia(
        "user", "invite", "ann@example.com", "--role", "admin", "-o", "json", COMITIA_API_KEY=admin_key
    )
    user_id = json.loads(invited.stdout)["user_id"]

    done = terminal("login", TENANT, BROWSER=browser_of("ann@example.com"))
    assert done.stdout == f"signed in to {TENANT} as ann@example.com\n"
    assert stat.S_IMODE(terminal.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(terminal.file.parent.stat().st_mode) == 0o700
    shown = terminal("whoami").stdout
    assert "ann@example.com" in shown
    assert user_id in shown
    assert "ann@example.com" in terminal("user", "list").stdout
    terminal("session", "start", "Rivers", "--rounds", "1", "--model", "stub", "-f")

    assert "signed out" in terminal("logout").stdout
    assert "nobody was signed in" in terminal("logout").stdout
    assert "API_KEY_MISSING" in terminal("whoami", check=1, COMITIA_DATA_DIR="/nonexistent").stderr


def test_a_person_signs_in_with_a_code_on_another_device(terminal: Terminal, admin_key: str, mesh: RunningMesh) -> None:
    mesh.comitia("user", "invite", "bob@example.com", COMITIA_API_KEY=admin_key)
    process = terminal.start("login", TENANT, "--device")
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if "Waiting" in line:
            break
    [page] = re.findall(r"^or open (\S+)$", said, re.MULTILINE)
    assert re.search(r"^  [A-Z]{4}-[A-Z]{4}$", said, re.MULTILINE)
    Person("bob@example.com").sign_in(page)
    output, rest = process.communicate(timeout=60)
    assert (process.returncode, rest) == (0, ""), rest
    assert output == f"signed in to {TENANT} as bob@example.com\n"
    assert "bob@example.com" in terminal("whoami").stdout


def test_without_a_browser_the_address_is_shown(terminal: Terminal, admin_key: str, mesh: RunningMesh) -> None:
    mesh.comitia("user", "invite", "cleo@example.com", COMITIA_API_KEY=admin_key)
    process = terminal.start("login", TENANT, "--no-browser")
    assert process.stderr is not None
    for line in process.stderr:
        if "http" in line:
            threading.Thread(target=Person("cleo@example.com").sign_in, args=(line.strip(),)).start()
            break
    output, _ = process.communicate(timeout=60)
    assert output == f"signed in to {TENANT} as cleo@example.com\n"


def test_who_is_not_invited_is_told_what_to_do(terminal: Terminal, admin_key: str) -> None:
    assert admin_key
    done = terminal("login", TENANT, check=1, BROWSER=browser_of("eve@example.com"))
    assert "ask an administrator of the tenant" in done.stderr
    assert "[LOGIN_REFUSED]" in done.stderr
    assert not terminal.file.exists()
    done = terminal("login", "nowhere", check=1)
    assert "there is no way to sign in to 'nowhere'" in done.stderr
    done = terminal("login", TENANT, "--issuer", "https://other.example.com", check=2)
    assert "is no provider" in done.stderr


def test_a_person_stays_signed_in_beyond_the_tokens(
    terminal: Terminal, admin_key: str, mesh: RunningMesh, provider: OidcProvider
) -> None:
    mesh.comitia("user", "invite", "dora@example.com", COMITIA_API_KEY=admin_key)
    terminal("login", TENANT, BROWSER=browser_of("dora@example.com"))

    def age(**changes: object) -> None:
        kept = json.loads(terminal.file.read_text())
        [url] = kept
        terminal.file.write_text(json.dumps({url: {**kept[url], **changes}}))

    def kept(name: str) -> str:
        [login] = json.loads(terminal.file.read_text()).values()
        return str(login[name])

    # The mesh's token has ended: a new one for the same ID token.
    id_token, tokens = kept("id_token"), provider.asked.count("/token")
    age(expires=time.time() - 1)
    terminal("whoami")
    assert (kept("id_token"), provider.asked.count("/token")) == (id_token, tokens)
    # The ID token has ended too: a new one for the refresh token, which is used once.
    refresh_token = kept("refresh_token")
    age(expires=0, id_token="a.e30.c")
    together = [terminal.start("whoami") for _ in range(3)]
    for process in together:
        output, errors = process.communicate(timeout=60)
        assert "dora@example.com" in output, errors
    assert provider.asked.count("/token") == tokens + 1
    assert kept("refresh_token") != refresh_token
    # The refresh token is worth nothing either.
    age(expires=0, id_token="a.e30.c", refresh_token="x")
    ended = terminal("whoami", check=1)
    assert f"run `comitia login {TENANT}` again" in ended.stderr
    assert "LOGIN_ENDED" in ended.stderr


def test_a_removed_person_is_out_within_five_seconds(terminal: Terminal, admin_key: str, mesh: RunningMesh) -> None:
    invited = mesh.comitia(
        "user", "invite", "emil@example.com", "--role", "tenant_user", "-o", "json", COMITIA_API_KEY=admin_key
    )
    user_id = json.loads(invited.stdout)["user_id"]
    terminal("login", TENANT, BROWSER=browser_of("emil@example.com"))
    [login] = json.loads(terminal.file.read_text()).values()
    with Client(mesh.url, access_token=login["access_token"]) as emil:
        list(emil.agents.list())
        removed = mesh.comitia("user", "remove", user_id, COMITIA_API_KEY=admin_key)
        assert "emil@example.com" in removed.stdout
        until = time.monotonic() + 5
        while (refused := refusal_of(emil)) == "":
            assert time.monotonic() < until
            time.sleep(0.05)
        assert refused == "TOKEN_REVOKED"
    done = terminal("whoami", check=1)
    assert "LOGIN_REFUSED" in done.stderr
    assert "emil@example.com" in mesh.comitia("user", "list", COMITIA_API_KEY=admin_key).stdout


def test_an_administrator_becomes_no_operator_by_an_issuer_of_their_own(
    terminal: Terminal, mesh: RunningMesh, provider: OidcProvider
) -> None:
    roles = ("--role", "operator", "--role", "auditor")
    invited = mesh.comitia("user", "invite", "otto@example.com", *roles, "-o", "json")
    with Client(mesh.url, api_key=mesh.admin_key) as operator:
        plain = operator.identity.create_key("plain admin", roles=["admin"]).secret
    # The provider says whatever the administrator wants.
    added = mesh.comitia("issuer", "add", provider.issuer, CLIENT_ID, "-o", "json", COMITIA_API_KEY=plain)
    try:
        terminal("login", "local", BROWSER=browser_of("otto@example.com"))
        shown = terminal("whoami").stdout
        assert "auditor" in shown
        assert "operator" not in shown
        assert "PERMISSION_MISSING" in terminal("tenant", "list", check=1).stderr
    finally:
        mesh.comitia("issuer", "remove", json.loads(added.stdout)["oidc_issuer_id"])
        mesh.comitia("user", "remove", json.loads(invited.stdout)["user_id"])


def test_a_person_with_other_roles_signs_in_again_at_once_and_what_they_had_before_ends(
    terminal: Terminal, admin_key: str, mesh: RunningMesh
) -> None:
    mesh.comitia("user", "invite", "fred@example.com", "--role", "admin", COMITIA_API_KEY=admin_key)
    terminal("login", TENANT, BROWSER=browser_of("fred@example.com"))
    [login] = json.loads(terminal.file.read_text()).values()
    with Client(mesh.url, api_key=admin_key) as admin, Client(mesh.url, access_token=login["access_token"]) as before:
        [user_id] = [user.user_id for user in admin.users.list() if user.email == "fred@example.com"]
        list(before.agents.list())
        admin.users.set_roles(user_id, ["auditor"])
        changed = time.monotonic()
        # In the same second; each token goes through the edge and to the services.
        again = admin.users.exchange(TENANT, login["id_token"]).access_token
        with Client(mesh.url, access_token=again) as after:
            assert list(after.identity.whoami().roles) == [identity_pb2.ROLE_AUDITOR]
            while (refused := refusal_of(before)) == "":
                assert time.monotonic() < changed + 5
                time.sleep(0.05)
            assert refused == "TOKEN_REVOKED"
            assert refusal_of(after) == ""
