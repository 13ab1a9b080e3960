"""What each of the seven says when a setting is missing or wrong: one line that names it, and none of its value."""

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import pytest

from services.meshkit.settings import ServiceSettings
from services.meshkit.settings_reader import SECRETS_DIR, WrongSettings, read_settings

SERVICES = ("cost", "gateway", "inference", "memory", "orchestrator", "policy", "tools")
SECRET = "hunter2"

Give = Callable[..., None]

each_service = pytest.mark.parametrize("service", SERVICES)


def settings_type(service: str) -> type[ServiceSettings]:
    return getattr(import_module(f"services.{service}.settings"), f"{service.capitalize()}Settings")


def good(service: str, folder: Path) -> dict[str, str]:
    key = folder / "some.jwk"
    key.write_text("{}")
    url = f"postgresql://someone:{SECRET}@127.0.0.1/comitia"
    values = {
        "LISTEN": "127.0.0.1:0",
        "DATABASE_URL": url,
        "MAINTENANCE_DATABASE_URL": url,
        "JWKS_PATH": str(key),
        "WORKLOAD_KEY_PATH": str(key),
        "WORKLOAD_JWKS_PATH": str(key),
        "KEK_PATH": str(key),
    }
    if service == "gateway":
        values |= {"SIGNING_KEY_PATH": str(key), "AUDIT_KEY_PATH": str(key), "AUDIT_STORE": str(folder)}
    if service == "orchestrator":
        values["OBJECT_STORE"] = str(folder)
    return {f"COMITIA_{service.upper()}_{name}": value for name, value in values.items()}


@pytest.fixture
def give(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Give:
    def set_all(service: str, **changed: str | None) -> None:
        for name, value in good(service, tmp_path).items():
            monkeypatch.setenv(name, value)
        for name, value in changed.items():
            variable = f"COMITIA_{service.upper()}_{name}"
            if value is None:
                monkeypatch.delenv(variable)
            else:
                monkeypatch.setenv(variable, value)

    return set_all


def complaint(service: str) -> str:
    with pytest.raises(WrongSettings) as refused:
        read_settings(settings_type(service))
    said = str(refused.value)
    assert "\n" not in said
    assert SECRET not in said
    return said


@each_service
def test_what_is_right_is_read(service: str, give: Give) -> None:
    give(service)
    assert read_settings(settings_type(service)).listen == "127.0.0.1:0"


@each_service
def test_each_required_setting_is_named_when_it_is_missing(service: str, give: Give, tmp_path: Path) -> None:
    required = [name for name, field in settings_type(service).model_fields.items() if field.is_required()]
    assert len(required) >= 6
    for name in required:
        give(service, **{name.upper(): None})
        assert complaint(service) == f"COMITIA_{service.upper()}_{name.upper()}: field required"


@each_service
def test_each_file_that_is_not_there_is_named(
    service: str, give: Give, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(service)
    files = list(read_settings(settings_type(service)).given_files())
    assert len(files) >= 4
    for name in files:
        give(service, **{name.upper(): str(tmp_path / "gone")})
        assert complaint(service) == f"COMITIA_{service.upper()}_{name.upper()}: {tmp_path}/gone is not there"
        give(service, **{name.upper(): str(tmp_path)})
        assert complaint(service) == f"COMITIA_{service.upper()}_{name.upper()}: {tmp_path} is no file"
        monkeypatch.delenv(f"COMITIA_{service.upper()}_{name.upper()}")
        give(service)


def test_the_gateway_starts_before_it_has_written_its_key_set(give: Give, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    give("gateway", JWKS_PATH=str(state / "jwks.json"))
    assert read_settings(settings_type("gateway")).jwks_path == state / "jwks.json"


@each_service
@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("DATABASE_URL", f"mysql://root:{SECRET}@somewhere", "must begin with postgresql://"),
        ("NATS_URL", SECRET, "must begin with nats://"),
        ("LISTEN", "127.0.0.1:99999", "a port must be at most 65535"),
        ("GATEWAY_TARGET", "gateway", "string should match"),
        ("COST_TARGET", "cost:1,127.0.0.1:2", "several addresses must be IP addresses"),
        ("COST_TARGET", "127.0.0.1:1,1.2.3:2", "several addresses must be IP addresses"),
        ("COST_TARGET", "127.0.0.1:1,[::1]:2", "all of them IPv4 or all IPv6"),
        ("OTLP_ENDPOINT", "jaeger:4317", "string should match"),
        ("DRAIN_SECONDS", "soon", "input should be a valid number"),
        ("EDGE_NETWORKS", "10.0.0.0/8", "must be JSON"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_wrong(service: str, name: str, value: str, why: str, give: Give) -> None:
    give(service, **{name: value})
    said = complaint(service)
    assert said.startswith(f"COMITIA_{service.upper()}_{name}: ")
    assert why in said
    assert "alue error" not in said


@pytest.mark.parametrize("value", ["127.0.0.1:1", "cost:1", "127.0.0.1:1,127.0.0.2:1", "[::1]:1,[::2]:1"])
def test_a_neighbour_is_a_name_or_addresses_of_one_family(value: str, give: Give) -> None:
    give("policy", COST_TARGET=value)
    assert read_settings(settings_type("policy")).cost_target == value


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_all_ways_to_write_an_address_of_postgres_are_taken(scheme: str, give: Give) -> None:
    give("cost", DATABASE_URL=f"{scheme}://someone@127.0.0.1/comitia")
    assert read_settings(settings_type("cost")).database_url.get_secret_value().startswith(scheme)


@each_service
def test_settings_that_do_not_go_together_are_named_by_their_variables(
    service: str, give: Give, tmp_path: Path
) -> None:
    give(service, TLS_CERT_PATH=str(tmp_path / "some.jwk"))
    prefix = f"COMITIA_{service.upper()}_TLS"
    assert complaint(service).startswith(f"{prefix}_CERT_PATH, {prefix}_KEY_PATH and {prefix}_CA_PATH belong together")


@each_service
def test_a_setting_may_stand_in_a_file_of_its_own(
    service: str, give: Give, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(service, DATABASE_URL=None)
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / f"comitia_{service}_database_url").write_text("postgresql://from@file/x\n")
    monkeypatch.setenv(SECRETS_DIR, str(secrets))
    read = read_settings(settings_type(service))
    assert read.database_url.get_secret_value() == "postgresql://from@file/x"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("database_url", "postgresql://müller@file/x".encode("latin-1"), "its file must be UTF-8"),
        ("edge_networks", "10.0.0.0/8".encode("utf-16"), "its file must be UTF-8"),
        ("edge_networks", b"10.0.0.0/8", "must be JSON"),
    ],
)
def test_a_setting_in_a_file_of_another_form_is_named_with_what_is_wrong(
    name: str, content: bytes, said: str, give: Give, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give("cost")
    monkeypatch.delenv(f"COMITIA_COST_{name.upper()}", raising=False)
    (secrets := tmp_path / "secrets").mkdir()
    (secrets / f"comitia_cost_{name}").write_bytes(content)
    monkeypatch.setenv(SECRETS_DIR, str(secrets))
    assert complaint("cost") == f"COMITIA_COST_{name.upper()}: {said}"


def test_a_directory_of_secrets_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRETS_DIR, "/nowhere")
    assert complaint("cost") == "COMITIA_SECRETS_DIR: /nowhere is no directory"


def test_all_seven_end_with_one_line(tmp_path: Path) -> None:
    def started(service: str) -> subprocess.CompletedProcess[str]:
        environment = good(service, tmp_path)
        del environment[f"COMITIA_{service.upper()}_DATABASE_URL"]
        return subprocess.run(
            [sys.executable, "-m", f"services.{service}"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    with ThreadPoolExecutor(len(SERVICES)) as all_at_once:
        for service, ended in zip(SERVICES, all_at_once.map(started, SERVICES), strict=True):
            assert (ended.returncode, ended.stdout) == (2, "")
            missing = f"COMITIA_{service.upper()}_DATABASE_URL"
            assert ended.stderr == f"{service} cannot start: {missing}: field required\n"


def test_a_file_that_holds_something_else_is_named_with_its_variable(tmp_path: Path) -> None:
    environment = good("policy", tmp_path)
    (tmp_path / "some.jwk").write_text(json.dumps({"kty": SECRET}))
    ended = subprocess.run(
        [sys.executable, "-m", "services.policy"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 3
    assert ended.stderr.count("\n") == 1
    assert "COMITIA_POLICY_WORKLOAD_KEY_PATH" in ended.stderr
