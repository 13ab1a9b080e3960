"""The command line for those who may come in: people, providers, sign-in, keys, tenants."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comitia.gateway.v1 import identity_pb2
from services.meshkit.core.errors import ErrorKind
from tests.contract.sdk.conftest import Comitia, Done
from tests.support.fake_mesh import FakeMesh, Refused
from tests.support.odd_provider import OddProvider, odd_provider

PROVIDER = "https://accounts.example.com"


@pytest.fixture
def provider() -> Iterator[OddProvider]:
    with odd_provider() as running:
        yield running


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "settings"
    monkeypatch.setenv("COMITIA_CONFIG_DIR", str(folder))
    return folder


class Terminal(io.StringIO):
    """Standard input with a person at it."""

    def isatty(self) -> bool:
        return True


def fields(done: Done) -> dict[str, str]:
    """Reads what a command shows of one thing: names and values below each other."""
    return {name.strip(): value for name, value in (line.split("  ", 1) for line in done.out.splitlines())}


def as_json(comitia: Comitia, *command: str, code: int = 0) -> Any:
    return json.loads(comitia(*command, "-o", "json", code=code).out)


def test_a_person_is_invited_gets_other_roles_and_is_removed_by_mail_address(comitia: Comitia, mesh: FakeMesh) -> None:
    assert comitia("user", "list").out == "no users; invite one with `comitia user invite`\n"
    assert fields(comitia("user", "invite", "ann@example.com", "--role", "auditor"))["roles"].strip() == "auditor"
    assert as_json(comitia, "user", "invite", "bob@example.com")["roles"] == ["ROLE_TENANT_USER"]

    assert "admin, auditor" in comitia("user", "set-roles", "Ann@example.com", "admin", "auditor").out
    assert as_json(comitia, "user", "set-roles", "user_1", "operator")["roles"] == ["ROLE_OPERATOR"]
    assert "removed" in comitia("user", "remove", "ann@example.com").out
    assert as_json(comitia, "user", "remove", "user_2")["user_id"] == "user_2"

    shown = comitia("user", "list").out.splitlines()
    assert shown[0].split() == ["user", "email", "roles", "invited", "removed"]
    assert [line.split()[1] for line in shown[1:]] == ["bob@example.com", "ann@example.com"]
    assert [user["email"] for user in as_json(comitia, "user", "list")] == ["bob@example.com", "ann@example.com"]
    assert all(mesh.request_ids[rpc] for rpc in ("InviteUser", "SetUserRoles", "RemoveUser"))


def test_an_invitation_says_what_is_missing_until_the_person_can_sign_in(comitia: Comitia, mesh: FakeMesh) -> None:
    assert comitia("user", "invite", "ann@example.com").err == (
        "nobody can sign in yet: say who vouches for people with `comitia issuer add`"
    )
    comitia("issuer", "add", PROVIDER, "comitia")
    assert comitia("user", "invite", "bob@example.com").err == (
        "no mail is sent; tell them to run `comitia login acme`"
    )
    mesh.fail_next("ListOidcIssuers", Refused(ErrorKind.DENIED, "PERMISSION_MISSING", "this needs more"))
    assert comitia("user", "invite", "cleo@example.com").err == ""
    assert comitia("user", "invite", "dora@example.com", "-o", "json").err == ""


def test_a_removed_person_is_invited_anew(comitia: Comitia) -> None:
    comitia("user", "invite", "ann@example.com")
    comitia("user", "remove", "ann@example.com")
    gone = comitia("user", "set-roles", "ann@example.com", "admin", code=1)
    assert gone.err == (
        "comitia: ann@example.com is removed; invite them again with `comitia user invite ann@example.com`"
    )
    comitia("user", "invite", "ann@example.com")
    assert "user_2" in comitia("user", "set-roles", "ann@example.com", "admin").out


def test_providers_are_added_listed_and_removed(comitia: Comitia, mesh: FakeMesh) -> None:
    assert comitia("issuer", "list").out == "no providers; add one with `comitia issuer add`\n"
    assert fields(comitia("issuer", "add", PROVIDER, "comitia"))["id"].strip() == "issuer_1"
    added = as_json(comitia, "issuer", "add", "https://id.example.org", "c2", "--trust", "example.org")
    assert (added["trusted_domains"], added["default_roles"]) == (["example.org"], ["ROLE_TENANT_USER"])
    assert PROVIDER in comitia("issuer", "list").out
    assert [one["client_id"] for one in as_json(comitia, "issuer", "list")] == ["c2", "comitia"]

    assert comitia("issuer", "remove", "issuer_1").out == "issuer_1 is removed\n"
    assert as_json(comitia, "issuer", "remove", "issuer_2") == {}
    assert mesh.people.issuers == []


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("user invite ann", 2, "comitia: email: must be a mail address such as ann@example.com [INVALID_FIELD]"),
        ("user invite a@b.c --role boss", 2, "comitia: roles: 'boss' is none of admin, operator, auditor, tenant_user"),
        (
            "user invite old@example.com",
            1,
            (
                "comitia: old@example.com is invited already; give them other roles with "
                "`comitia user set-roles old@example.com ROLE`"
            ),
        ),
        (
            "user remove ann@example.com",
            1,
            "comitia: there is no user 'ann@example.com'; `comitia user list` names them",
        ),
        ("user set-roles ann admin", 1, "comitia: there is no user 'ann'; `comitia user list` names them"),
        ("user set-roles user_9 admin", 1, "comitia: user 'user_9' does not exist [NOT_FOUND]"),
        ("user set-roles user_1", 2, "comitia: missing argument 'ROLE...'; see `comitia user set-roles --help`"),
        (
            "issuer add https://a.example.com c --role auditor",
            2,
            (
                "comitia: invalid value for --role: is for people who come in by --trust; name a domain with --trust, "
                "or leave the role out: who is invited has roles of their own; see `comitia issuer add --help`"
            ),
        ),
        ("issuer add https://old.example.com comitia", 1, "comitia: issuer 'https://old.example.com' already exists"),
        (
            "issuer remove old",
            2,
            "comitia: invalid value for 'ID': 'old' is no id of the form issuer_…; `comitia issuer list` shows them",
        ),
        ("issuer remove issuer_9", 1, "comitia: issuer 'issuer_9' does not exist [NOT_FOUND]"),
        (
            "key revoke ci",
            2,
            (
                "comitia: invalid value for 'KEY': 'ci' is no id of the form key_…; `comitia key list` shows them; see "
                "`comitia key revoke --help`"
            ),
        ),
        ("key rotate key_9", 1, "comitia: API key 'key_9' does not exist [NOT_FOUND]"),
        ("key rotate key_2 --overlap 8d", 2, "comitia: invalid value for '--overlap': must be at most 7d, such as 24h"),
        ("key create ci --service-account nightly", 2, "comitia: invalid value for '--service-account': 'nightly' is "),
        (
            "service-account disable nightly",
            2,
            (
                "comitia: invalid value for 'ACCOUNT': 'nightly' is no id of the form svc_…; "
                "`comitia service-account list` shows them"
            ),
        ),
        ("tenant show nobody", 1, "comitia: there is no tenant 'nobody'; `comitia tenant list` names them"),
        ("tenant show tenant_9", 1, "comitia: tenant 'tenant_9' does not exist [NOT_FOUND]"),
        ("tenant create old", 1, "comitia: tenant 'old' already exists [ALREADY_EXISTS]"),
        (
            "tenant set-quota old",
            2,
            "comitia: name at least one quota, such as --runs 5; see `comitia tenant set-quota",
        ),
        ("tenant set-quota old --storage lots", 2, "comitia: invalid value for '--storage': must be a number of bytes"),
        ("tenant set-quota old --cost lots", 2, "comitia: invalid value for '--cost': 'lots' is no amount in dollars"),
        ("tenant delete old", 2, "comitia: nobody is here to be asked; add --confirm old if old shall be erased"),
        (
            "tenant delete old --confirm new",
            2,
            "comitia: 'new' is not the name of the tenant, old; nothing is erased",
        ),
        (
            "tenant erasure old",
            1,
            "comitia: old is not being erased; `comitia tenant delete old --plan` says what that would do",
        ),
        ("tenant policy set --audit-level all", 2, "comitia: audit_level: 'all' is none of mutations, refusals"),
        ("login acme --issuer https://other.example.com", 2, "comitia: https://other.example.com is no provider of "),
        (
            "login nowhere",
            1,
            (
                "comitia: there is no way to sign in to 'nowhere'; check the name, or let an administrator of the "
                "tenant run `comitia issuer add`"
            ),
        ),
        ("login", 2, "comitia: missing argument 'TENANT'; see `comitia login --help`"),
    ],
)
def test_what_cannot_be_done_says_what_to_do(comitia: Comitia, command: str, code: int, said: str) -> None:
    comitia("user", "invite", "old@example.com")
    comitia("issuer", "add", "https://old.example.com", "comitia")
    comitia("tenant", "create", "old")

    refused = comitia(*command.split(), code=code)

    assert refused.err.startswith(said), refused.err
    assert refused.out == ""


@pytest.mark.parametrize(
    ("command", "secret"),
    [
        ("key create ci", "ck_3_made"),
        ("key rotate key_2 --overlap 24h", "ck_key_2_rotated"),
        ("tenant create beta", "ck_beta_made"),
    ],
)
@pytest.mark.parametrize("form", ["table", "json"])
def test_a_secret_is_shown_once_and_never_again(comitia: Comitia, command: str, secret: str, form: str) -> None:
    comitia("key", "create", "older")

    done = comitia(*command.split(), "-o", form)

    assert (done.out + done.err).count(secret) == 1
    for later in ("key list", "tenant list", "tenant show", "service-account list"):
        again = comitia(*later.split(), "-o", form)
        assert "ck_" not in again.out + again.err, later


def test_a_tenant_lives_is_limited_and_ends(comitia: Comitia) -> None:
    made = comitia("tenant", "create", "beta", "--region", "eu")
    assert made.err == "whoever has this key as COMITIA_API_KEY administers beta"
    assert fields(comitia("tenant", "show", "beta"))["region"].strip() == "eu"
    limited = fields(comitia(*"tenant set-quota beta --runs 5 --storage 2GB --cost 100".split()))
    assert limited["runs at once"].strip() == "at most 5"
    assert limited["storage"].strip() == "at most 2,000,000,000 bytes"
    assert limited["cost"].strip() == "at most $100.00"
    assert as_json(comitia, "tenant", "set-quota", "tenant_2", "--runs", "0")["quotas"]["max_concurrent_runs"] == "0"
    assert "us" in comitia("tenant", "set-region", "beta", "us").out
    assert fields(comitia("tenant", "suspend", "beta", "--reason", "unpaid"))["state"].strip() == "suspended"
    assert as_json(comitia, "tenant", "resume", "beta")["state"] == "TENANT_STATE_ACTIVE"

    assert "delete" in comitia("tenant", "delete", "beta", "--plan").out
    assert fields(comitia("tenant", "show", "beta"))["state"].strip() == "active"
    ended = comitia("tenant", "delete", "beta", "--confirm", "beta")
    assert ended.err == "follow it with `comitia tenant erasure beta`"
    assert "erased at" in comitia("tenant", "erasure", "beta").out
    assert as_json(comitia, "tenant", "erasure", "beta")["done_services"] == ["memory"]
    assert "deleted" in comitia("tenant", "list").out
    assert "erased at" in comitia("tenant", "delete", "beta", "--confirm", "beta", "--wait").out
    refused = comitia("tenant", "resume", "beta", code=1)
    assert "[TENANT_ENDED]" in refused.err


def test_the_rules_of_the_own_tenant_are_replaced_as_a_whole(comitia: Comitia) -> None:
    rules = "tenant policy set --tool calculator --host *.example.com --audit-level refusals"
    assert fields(comitia(*rules.split()))["hosts"].strip() == "*.example.com"
    assert as_json(comitia, "tenant", "policy", "show")["allowed_tools"] == ["calculator"]
    assert fields(comitia("tenant", "policy", "set", "--no-tools"))["tools"].strip() == "none"
    assert fields(comitia("tenant", "policy", "show"))["hosts"].strip() == "every public one"
    ages = fields(comitia("tenant", "policy", "set", "--archive-after", "1", "--delete-runs-after", "3650"))
    assert ages["runs archived"].strip() == "1 day after their end"
    assert ages["runs deleted"].strip() == "3,650 days after their end"
    assert fields(comitia("tenant", "policy", "set"))["runs deleted"].strip() == "never"


def an_id_token() -> str:
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (b"{}", b"{}", b"s"))


CODE = {"device_code": "d1", "user_code": "ABCD-EFGH", "verification_uri": "https://p/device", "expires_in": 60}


def test_a_person_signs_in_and_out_and_no_token_is_shown(
    comitia: Comitia, mesh: FakeMesh, provider: OddProvider, monkeypatch: pytest.MonkeyPatch, settings: Path
) -> None:
    monkeypatch.delenv("COMITIA_API_KEY")
    monkeypatch.setattr("time.sleep", lambda _: None)
    id_token = an_id_token()
    mesh.people.issuers = [identity_pb2.OidcIssuer(issuer=provider.url, client_id="comitia")]
    mesh.people.believed, mesh.identity.email = {id_token}, "ann@example.com"
    provider.says("/device", (200, CODE))
    provider.says("/token", (200, {"id_token": id_token, "refresh_token": "refresh-1"}))

    done = comitia("login", "acme", "--device")

    assert done.out == "signed in to acme as ann@example.com\n"
    assert "ABCD-EFGH" in done.err
    [access_token] = mesh.tokens
    assert not any(secret in done.out + done.err for secret in (id_token, "refresh-1", access_token, "d1\n"))
    assert (settings / "logins.json").stat().st_mode & 0o077 == 0
    assert "ann@example.com" in comitia("whoami").out
    assert comitia("logout").out == f"signed out of {mesh.url}\n"
    assert comitia("logout").out == f"nobody was signed in to {mesh.url}\n"
    assert "`comitia login TENANT`" in comitia("whoami", code=1).err


def test_who_is_not_believed_is_told_so_and_nothing_is_kept(
    comitia: Comitia, mesh: FakeMesh, provider: OddProvider, monkeypatch: pytest.MonkeyPatch, settings: Path
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    mesh.people.issuers = [identity_pb2.OidcIssuer(issuer=provider.url, client_id="comitia")]
    provider.says("/device", (200, CODE))
    provider.says("/token", (200, {"id_token": an_id_token()}))

    refused = comitia("login", "acme", "--device", code=1, lines=None)

    assert refused.err.splitlines()[-1] == ("comitia: the sign-in is refused; ask an administrator [LOGIN_REFUSED]")
    assert not (settings / "logins.json").exists()


def test_of_several_providers_one_is_chosen(comitia: Comitia, mesh: FakeMesh) -> None:
    for number in (1, 2):
        mesh.people.issuers.append(identity_pb2.OidcIssuer(issuer=f"https://p{number}.example.com", client_id="c"))
    assert comitia("login", "acme", code=2).err == (
        "comitia: 'acme' has several providers; choose one with --issuer: https://p1.example.com, "
        "https://p2.example.com"
    )


@pytest.mark.parametrize(("typed", "code"), [("beta", 0), ("betta", 2), ("", 2)])
def test_a_person_types_the_name_before_a_tenant_is_erased(
    comitia: Comitia, mesh: FakeMesh, monkeypatch: pytest.MonkeyPatch, typed: str, code: int
) -> None:
    comitia("tenant", "create", "beta")
    monkeypatch.setattr("sys.stdin", Terminal(f"{typed}\n"))

    done = comitia("tenant", "delete", "beta", code=code)

    assert "This erases beta for good. Type its name:" in done.err
    assert ("nothing is erased" in done.err) == (code != 0)
    assert bool(mesh.request_ids["DeleteTenant"]) == (code == 0)
