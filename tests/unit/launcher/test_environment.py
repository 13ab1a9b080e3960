from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pydantic_settings import SettingsConfigDict

from services.launcher import ports
from services.launcher.environment import (
    MeshFacts,
    asked_ports,
    ordinary_environment,
    refuse_own_certificates,
    service_environment,
    whole_environment,
)
from services.launcher.errors import LauncherError
from services.launcher.layout import DataDir
from services.launcher.mesh_databases import ROLES, MeshDatabases, prefix_from
from services.launcher.services import SERVICES
from services.meshkit.settings import ServiceSettings
from services.meshkit.sql.roles import roles_of

#: What two processes of inference are told differently.
OWN_OF_A_REPLICA = ("LISTEN", "METRICS_LISTEN", "DOORS_LISTEN", "GUARD_PATH", "REGISTRY_PATH")
ADMIN_URL = "postgresql://postgres:top@127.0.0.1:7432/postgres"


def facts(user: dict[str, str] | None = None, **changes: Any) -> MeshFacts:
    with ports.PortClaims() as claims:
        chosen = ports.choose(remembered={}, asked={}, claims=claims, dice=Random(1), random_only=True)
    return MeshFacts(
        data=DataDir(Path("/data")),
        ports=chosen,
        user=user or {},
        databases=MeshDatabases(
            admin_url=ADMIN_URL,
            passwords={f"{service}/{role}": f"{service}-{role}-pw" for service in SERVICES for role in ROLES},
            installation="i",
        ),
        nats_url="nats://token@127.0.0.1:7422",
        **changes,
    )


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_finds_every_setting_that_all_services_have(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = facts()
    for name, value in service_environment(service, known).items():
        monkeypatch.setenv(name, value)

    class Settings(ServiceSettings):
        model_config = SettingsConfigDict(env_prefix=f"COMITIA_{service.upper()}_", frozen=True, extra="ignore")

    settings = Settings.model_validate({})
    assert settings.listen == f"127.0.0.1:{known.ports[service]}"
    assert settings.database_url.get_secret_value().endswith(f"/comitia_{service}")
    assert settings.workload_key_path == known.data.workload_key(service)
    neighbours = [name for name in SERVICES if name != service]
    assert [getattr(settings, f"{name}_target") for name in neighbours] == [
        f"127.0.0.1:{known.ports[name]}" for name in neighbours
    ]


def test_a_service_is_told_nothing_of_the_others() -> None:
    user = {"COMITIA_TOOLS_SECRET": "t", "COMITIA_POSTGRES_URL": ADMIN_URL, "OPENAI_API_KEY": "k", "AWS_SECRET": "a"}
    user["COMITIA_DATABASE_PREFIX"] = "comitia"

    environment = service_environment("cost", facts(user))

    told = " ".join(environment.values())
    assert not environment.keys() & user.keys()
    assert "top" not in told
    assert "tools-app-pw" not in told


@pytest.mark.parametrize("key", ["OPENAI_API_KEY", "ANTHROPIC_API_KEY"])
def test_only_inference_sees_the_keys_of_model_providers(key: str) -> None:
    seeing = [service for service in SERVICES if key in service_environment(service, facts({key: "k"}))]

    assert seeing == ["inference"]


def test_what_the_user_sets_wins() -> None:
    user = {"COMITIA_COST_LOG_LEVEL": "debug", "COMITIA_COST_KEK_PATH": "/mine", "COMITIA_ANYTHING": "for all"}

    assert service_environment("cost", facts(user)).items() >= user.items()


def test_where_the_key_service_is_needs_to_be_said_once() -> None:
    user = {"COMITIA_VAULT_TOKEN": "t", "COMITIA_KEK_PROVIDER": "vault", "COMITIA_TOOLS_VAULT_TOKEN": "own"}
    tools, memory = (service_environment(service, facts(user)) for service in ("tools", "memory"))
    assert (tools["COMITIA_TOOLS_KEK_PROVIDER"], tools["COMITIA_TOOLS_VAULT_TOKEN"]) == ("vault", "own")
    assert (memory["COMITIA_MEMORY_KEK_PROVIDER"], memory["COMITIA_MEMORY_VAULT_TOKEN"]) == ("vault", "t")
    assert "COMITIA_VAULT_TOKEN" not in tools


def test_a_single_process_is_told_the_same_as_seven() -> None:
    known = facts({"OPENAI_API_KEY": "k"})

    for service in SERVICES:
        assert whole_environment(known).items() >= service_environment(service, known).items()


def test_inference_is_told_of_the_local_model_where_it_runs() -> None:
    with_model = service_environment("inference", facts(local_model_url="http://127.0.0.1:7450"))

    assert with_model["COMITIA_INFERENCE_LOCAL_MODEL_URL"] == "http://127.0.0.1:7450"
    assert "COMITIA_INFERENCE_LOCAL_MODEL_URL" not in service_environment("inference", facts())


@pytest.mark.parametrize("mtls", [True, False])
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_finds_its_own_certificate_where_the_mesh_has_some(service: str, mtls: bool) -> None:
    own = f"COMITIA_{service.upper()}_TLS_"
    told = {name: value for name, value in service_environment(service, facts(mtls=mtls)).items() if "_TLS_" in name}
    pair, believed = f"/data/keys/tls/{service}.pem", "/data/keys/tls/authorities.pem"

    assert told == ({f"{own}CERT_PATH": pair, f"{own}KEY_PATH": pair, f"{own}CA_PATH": believed} if mtls else {})


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_told_of_the_listener_where_there_is_one(service: str) -> None:
    variable = f"COMITIA_{service.upper()}_EAST_WEST_TARGET"
    told = service_environment(service, replace(facts(mtls=True, east_west=True), ports=ports.PREFERRED))

    assert told[variable] == "127.0.0.1:7409"
    assert variable not in service_environment(service, facts(mtls=True))


@pytest.mark.parametrize("setting", ["TLS_CERT_PATH", "TLS_KEY_PATH", "TLS_CA_PATH"])
def test_certificates_of_the_user_are_refused_with_the_way_to_have_some(setting: str) -> None:
    refuse_own_certificates({"COMITIA_COST_LISTEN": "127.0.0.1:5001", f"COMITIA_COST_{setting}": ""})
    with pytest.raises(LauncherError, match=rf"COMITIA_COST_{setting} is set.*comitia up --mtls"):
        refuse_own_certificates({f"COMITIA_COST_{setting}": "/mine"})


def test_replicas_are_called_at_all_their_addresses_and_give_notice_before_they_leave() -> None:
    counts = {"cost": 2, "inference": 2}
    with ports.PortClaims() as claims:
        chosen = ports.choose(remembered={}, asked={}, claims=claims, dice=Random(1), random_only=True, replicas=counts)
    known = replace(facts(), ports=chosen, replicas=counts)
    first, second = (service_environment(process, known) for process in ("inference", "inference-2"))

    assert first["COMITIA_INFERENCE_COST_TARGET"] == f"127.0.0.1:{chosen['cost']},127.0.0.1:{chosen['cost-2']}"
    assert first["COMITIA_INFERENCE_MEMORY_TARGET"] == f"127.0.0.1:{chosen['memory']}"
    assert first["COMITIA_INFERENCE_NOTICE_SECONDS"] == "3"
    assert "COMITIA_MEMORY_NOTICE_SECONDS" not in service_environment("memory", known)
    own = {name for name in first if first[name] != second[name]}
    assert own == {f"COMITIA_INFERENCE_{name}" for name in OWN_OF_A_REPLICA}


def test_a_servers_own_program_sees_no_secret() -> None:
    user = {"PATH": "/bin", "LC_ALL": "C", "OPENAI_API_KEY": "k", "COMITIA_NATS_URL": "nats://x"}

    assert ordinary_environment(user) == {"PATH": "/bin", "LC_ALL": "C"}


def test_a_database_address_keeps_the_place_and_the_options_of_the_administrators() -> None:
    databases = MeshDatabases(
        admin_url="postgresql://root:p%40ss@db.example:6432/any?sslmode=require",
        passwords={"tools/app": "a/b"},
        installation="i",
        prefix="blue",
    )

    assert (
        databases.url("tools", "app") == "postgresql://blue_tools_app:a%2Fb@db.example:6432/blue_tools?sslmode=require"
    )


def test_names_of_databases_begin_as_the_user_says_where_names_can() -> None:
    assert (prefix_from({}), prefix_from({"COMITIA_DATABASE_PREFIX": "blue_2"})) == ("comitia", "blue_2")
    assert roles_of(f"{'a' * 38}_orchestrator")
    for wrong in ("Blue", "2", "blue-2", "a" * 39):
        with pytest.raises(LauncherError, match=r"COMITIA_DATABASE_PREFIX is .*; it must be a small letter"):
            prefix_from({"COMITIA_DATABASE_PREFIX": wrong})


def test_listen_addresses_of_the_user_are_ports_asked_for() -> None:
    user = {"COMITIA_TOOLS_LISTEN": "127.0.0.1:5001", "COMITIA_COST_METRICS_LISTEN": "0.0.0.0:9000"}

    assert asked_ports(user) == {"tools": 5001, "cost_metrics": 9000}


@pytest.mark.parametrize("listen", ["5001x", "host:", "host:0", "host:70000"])
def test_a_listen_address_without_a_port_is_refused(listen: str) -> None:
    with pytest.raises(LauncherError, match=r"COMITIA_TOOLS_LISTEN is .*; it must be host:port"):
        asked_ports({"COMITIA_TOOLS_LISTEN": listen})
