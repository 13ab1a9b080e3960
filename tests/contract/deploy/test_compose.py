"""The compose file: it is one, it runs our images as they are meant to be run, and every service finds its settings."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.launcher import hand_out
from services.launcher.edge import render_edge
from services.launcher.edge_image import TOKEN_CHECK, image_settings
from services.launcher.hand_out import HANDED, KEPT, KEY_SET, Surroundings
from services.launcher.keys import ensure_keys, find_databases
from services.launcher.layout import DataDir, prepare
from services.launcher.ports import PREFERRED, metrics_port_name
from services.launcher.services import SERVICES
from services.meshkit.settings_reader import SECRETS_DIR, read_settings
from tests.support.dockerfile import ROOT, Dockerfile

COMPOSE = ROOT / "deploy" / "compose.yaml"
#: The chart's, which mounts the same files into a cluster.
CHARTS = "../helm/"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE.read_text())


@pytest.fixture(scope="module")
def handed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `prepare` writes, but for the databases."""
    folder = tmp_path_factory.mktemp("mesh")
    data = DataDir(folder / "data")
    prepare(data)
    ensure_keys(data)
    around = Surroundings(
        databases=find_databases(data, "postgresql://postgres:hunter2@postgres:5432/postgres", {}),
        nats_url="nats://hunter2@nats:4222",
        milvus_url="http://milvus:19530",
        local_model_url="http://local-model:7450",
        otlp_endpoint="http://jaeger:4317",
        edge_networks=("172.28.74.10/32",),
    )
    hand_out.hand_out(data, folder / "to", around)
    return folder / "to"


@pytest.fixture
def settings_of(handed: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Reads the settings of a service as its container does."""

    def read(service: str) -> Any:
        module = import_module(f"services.{service}.settings")
        kind = getattr(module, f"{service.capitalize()}Settings")
        original = kind.given_files
        monkeypatch.setattr(kind, "given_files", lambda settings: moved(original(settings), service))
        monkeypatch.setenv(SECRETS_DIR, str(handed / service))
        return read_settings(kind)

    def moved(files: dict[str, Path], service: str) -> dict[str, Path]:
        places = {HANDED: handed / service, KEY_SET.parent: handed / "keyset"}
        return {
            name: next((to / path.relative_to(seen) for seen, to in places.items() if path.is_relative_to(seen)), path)
            for name, path in files.items()
        }

    return read


def test_the_compose_file_is_one() -> None:
    checked = subprocess.run(
        [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", COMPOSE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


def test_every_name_is_defined(compose: dict[str, Any]) -> None:
    volumes, used = set(compose["volumes"]), set[str]()
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert source.startswith(CHARTS) or (COMPOSE.parent / source).exists(), source
            else:
                used.add(source)
        assert set(service.get("depends_on", {})) <= compose["services"].keys(), name
    assert used == volumes


def test_images_of_others_have_a_version(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        if "comitia-" not in service["image"]:
            assert re.search(r":v?\d+\.\d+[.\w-]*$", service["image"])


def test_ours_run_locked_up(compose: dict[str, Any], dockerfile: Dockerfile) -> None:
    run = set[str]()
    for service in compose["services"].values():
        found = re.fullmatch(r"\$\{COMITIA_REGISTRY:-ghcr\.io/comitia\}/comitia-([\w-]+):\S+", service["image"])
        if found:
            run.add(found[1])
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]
            assert service["security_opt"] == ["no-new-privileges:true"]
    assert run == set(dockerfile.images)


def test_only_this_machine_reaches_what_is_published(compose: dict[str, Any]) -> None:
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_sees_its_own_secrets_and_nobody_elses(service: str, compose: dict[str, Any]) -> None:
    mounted = compose["services"][service]["volumes"]
    assert f"handed-{service}:{HANDED}:ro" in mounted
    assert [volume for volume in mounted if volume.startswith("handed-")] == [f"handed-{service}:{HANDED}:ro"]
    assert f"{service}-data:{KEPT}" in mounted
    written = f"key-set:{KEY_SET.parent}" + ("" if service == "gateway" else ":ro")
    assert written in mounted
    assert compose["services"][service]["environment"][SECRETS_DIR] == str(HANDED)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_finds_all_that_it_needs(service: str, settings_of: Callable[[str], Any]) -> None:
    settings = settings_of(service)
    assert settings.listen == f"0.0.0.0:{PREFERRED[service]}"
    assert settings.neighbours == {f"{name}:{PREFERRED[name]}": name for name in SERVICES}
    assert settings.database_url.get_secret_value().endswith(f"@postgres:5432/comitia_{service}")
    assert "hunter2" not in settings.database_url.get_secret_value()
    assert settings.otlp_endpoint == "http://jaeger:4317"
    assert [str(network) for network in settings.edge_networks] == ["172.28.74.10/32"]


@pytest.mark.parametrize("service", SERVICES)
def test_every_setting_that_is_handed_out_is_one(service: str, handed: Path, settings_of: Callable[[str], Any]) -> None:
    known = type(settings_of(service)).model_fields
    named = [file.name.removeprefix(f"comitia_{service}_") for file in (handed / service).glob("comitia_*")]
    assert len(named) > 10
    assert not set(named) - known.keys()


def test_handing_out_again_changes_nothing_that_is_in_use(handed: Path, tmp_path: Path) -> None:
    keys = handed / "keyset" / KEY_SET.name
    rotated = json.dumps({"keys": []})
    before = keys.read_text()
    keys.write_text(rotated)
    data = DataDir(handed.parent / "data")
    passwords = (handed / "cost" / "comitia_cost_database_url").read_text()
    databases = find_databases(data, "postgresql://a@postgres:5432/x", {})
    hand_out.hand_out(data, handed, Surroundings(databases=databases, nats_url="nats://n"))
    assert keys.read_text() == rotated, "a key set that the gateway has changed is the gateway's"
    assert (handed / "cost" / "comitia_cost_database_url").read_text() == passwords
    keys.write_text(before)


def test_the_edge_finds_the_services_and_the_check_of_tokens(compose: dict[str, Any]) -> None:
    rendered = json.dumps(json.loads(render_edge(image_settings())))
    for service in SERVICES:
        assert f'"address": "{service}", "port_value": {PREFERRED[service]}' in rendered
        assert service in compose["services"]
    assert str(TOKEN_CHECK) in rendered
    assert f"token-check:{TOKEN_CHECK.parent}:ro" in compose["services"]["edge"]["volumes"]
    command = compose["services"]["edge-keys"]["command"]
    assert command[3:] == [str(KEY_SET), str(TOKEN_CHECK)]


def test_prometheus_scrapes_each_service_where_it_shows_its_metrics() -> None:
    configuration = yaml.safe_load((COMPOSE.parent / "compose" / "prometheus.yaml").read_text())
    targets = {
        entry["labels"]["service"]: entry["targets"] for entry in configuration["scrape_configs"][0]["static_configs"]
    }
    assert targets == {name: [f"{name}:{PREFERRED[metrics_port_name(name)]}"] for name in SERVICES}


def test_what_configures_the_servers_beside_is_yaml(compose: dict[str, Any]) -> None:
    files = sorted((COMPOSE.parent / "compose").rglob("*.yaml"))
    assert len(files) >= 5
    for file in files:
        assert yaml.safe_load(file.read_text())


@pytest.mark.parametrize("missing", ["COMITIA_POSTGRES_URL", "COMITIA_NATS_URL"])
def test_handing_out_names_the_address_that_it_lacks(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("COMITIA_POSTGRES_URL", "postgresql://a@b/c")
    monkeypatch.setenv("COMITIA_NATS_URL", "nats://n")
    monkeypatch.delenv(missing)
    assert hand_out.main(["--data-dir", str(tmp_path), "--to", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"{missing} is not set; give the address of that server\n"
