"""Every configuration that the edge can be rendered as is one that Envoy accepts."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from comitia.guard_table import GUARDS
from services.launcher.edge import (
    Address,
    EdgeSettings,
    MeshTlsFiles,
    ServingCertificate,
    public_rpcs,
    render_edge,
    render_serving_secret,
)
from services.meshkit.core.clock import SystemClock
from services.meshkit.testing.mesh_keys import MeshKeys
from tests.support.authority import Authority
from tests.support.edge import edge_settings, envoy, write_mesh_secrets


@pytest.fixture
def settings(tmp_path: Path) -> EdgeSettings:
    keys = MeshKeys.make(tmp_path, clock=SystemClock())
    return edge_settings({}, jwks=keys.jwks_path, log=tmp_path / "access.log")


def certificate(folder: Path) -> ServingCertificate:
    """Makes what the edge shows to callers, and the file that says where it is."""
    shown = Authority().equips("edge", folder / "serving")
    files = ServingCertificate(
        secret=folder / "serving.yaml", certificate_chain=shown.certificate, private_key=shown.key
    )
    files.secret.write_text(render_serving_secret(files))
    return files


def mesh_certificate(folder: Path) -> MeshTlsFiles:
    """Makes what the edge shows to services, and the file that says where it is."""
    shown = Authority().equips("edge", folder / "mesh")
    files = MeshTlsFiles(
        secrets=folder / "secrets",
        certificate_chain=shown.certificate,
        private_key=shown.key,
        authorities=shown.authorities,
    )
    write_mesh_secrets(files)
    return files


@pytest.mark.parametrize("variant", ["plain", "stdout log", "tls", "mesh tls", "cors", "names", "ipv6"])
def test_envoy_accepts_what_is_rendered(settings: EdgeSettings, tmp_path: Path, variant: str) -> None:
    chosen = {
        "plain": settings,
        "stdout log": replace(settings, access_log=None),
        "tls": replace(settings, tls=certificate(tmp_path)),
        "mesh tls": replace(settings, mesh_tls=mesh_certificate(tmp_path)),
        "cors": replace(settings, cors_origins=("https://app.example",)),
        "names": replace(settings, services={name: [Address(f"{name}.mesh", 7400)] for name in settings.services}),
        "ipv6": replace(settings, listen=Address.parse("[::1]:0"), admin=Address("::1", 0)),
    }[variant]
    config = tmp_path / "edge.json"
    config.write_text(render_edge(chosen))
    command = [envoy(), "--mode", "validate", "-c", str(config), "-l", "warning"]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stderr[-2000:]
    assert "deprecated" not in checked.stderr.lower(), checked.stderr


def test_exactly_the_public_rpcs_have_a_route(settings: EdgeSettings) -> None:
    config = json.loads(render_edge(settings))
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]
    exact = {route["match"]["path"]: route for route in routes if "path" in route["match"]}
    assert exact.keys() == {path for path, guard in GUARDS.items() if not guard.peers}
    for path, route in exact.items():
        authn = route["typed_per_filter_config"]["envoy.filters.http.jwt_authn"]
        assert authn.get("disabled", False) is GUARDS[path].open
        assert route["route"]["cluster"] == path.split(".")[1]
        # A worker's stream ends when the worker does; whoever held it until then would never send it on.
        held = not route["typed_per_filter_config"].get("comitia.body_size", {}).get("disabled", False)
        assert held is (path != "/comitia.orchestrator.v1.WorkerService/Work")
    others = [route["match"]["prefix"] for route in routes if "prefix" in route["match"]]
    assert others == [
        "/grpc.health.v1.Health/",
        "/grpc.reflection.v1.ServerReflection/",
        "/grpc.reflection.v1alpha.ServerReflection/",
        "/",
    ]


def test_the_wall_against_floods_stands_far_above_the_limits_of_the_guards(settings: EdgeSettings) -> None:
    by_path = {rpc.path: rpc for rpc in public_rpcs(GUARDS, settings)}
    assert by_path["/comitia.gateway.v1.IdentityService/ExchangeApiKey"].per_second == 200
    who = by_path["/comitia.gateway.v1.IdentityService/WhoAmI"]
    assert (who.per_second, who.per_caller) == (1000, 800)


def test_each_address_is_counted_before_the_whole_edge_and_health_apart(settings: EdgeSettings) -> None:
    config = json.loads(render_edge(replace(settings, edge_per_second=70, address_per_second=30)))
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    first, second = manager["http_filters"][:2]
    assert (first["name"], second["name"]) == ("comitia.address_rate", "comitia.edge_rate")
    [of_address] = first["typed_config"]["descriptors"]
    assert of_address["token_bucket"] == {"max_tokens": 60, "tokens_per_fill": 30, "fill_interval": "1s"}
    assert second["typed_config"]["token_bucket"]["tokens_per_fill"] == 70
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]
    exempt = [
        route["match"]["prefix"]
        for route in routes
        if route.get("typed_per_filter_config", {}).get("comitia.edge_rate", {}).get("disabled")
    ]
    assert exempt == ["/grpc.health.v1.Health/"]


def test_the_admin_page_is_never_opened_to_others(settings: EdgeSettings) -> None:
    with pytest.raises(ValueError, match="loopback"):
        replace(settings, admin=Address("0.0.0.0", 9901))


def test_a_service_without_an_address_is_noticed(settings: EdgeSettings) -> None:
    with pytest.raises(ValueError, match="cost"):
        replace(settings, services={name: at for name, at in settings.services.items() if name != "cost"})
