"""The chart and the code say the same: environment, ports, probes, who calls whom, and what the jobs make."""

import itertools
import json
import re
import subprocess
from base64 import b64decode
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import yaml

from comitia.guard_table import GUARDS
from services.launcher import east_west_pod, edge_pod
from services.launcher.cluster_keys import PrintedSecrets, make_missing
from services.launcher.environment import MeshFacts, service_environment
from services.launcher.envoy_pod import KEEPER_PORT, METRICS_PORT, EnvoyWishes
from services.launcher.layout import DataDir, prepare
from services.launcher.mesh_databases import ROLES, MeshDatabases, prefix_from
from services.launcher.ports import DOORS, PREFERRED, metrics_port_name
from services.launcher.services import CALLS, SERVICES
from services.meshkit.batching.coalescer import STREAM_SECONDS
from services.meshkit.batching.lane import SPREAD
from services.meshkit.grpc.interceptors import DEFAULT_MAX_SECONDS
from services.meshkit.grpc.tls import EAST_WEST, certified_name
from tests.support.authority import Authority
from tests.support.chart import CHART, settings_of
from tests.support.dockerfile import read_dockerfile
from tests.support.edge import envoy
from tests.support.public_rpcs import INTERNAL, PUBLIC
from tests.support.render_chart import Rendered

ROOT: Final = CHART.parents[1]
#: What one machine needs and a cluster does not, and the other way round.
ONLY_LAUNCHER: Final = {"COMITIA_GATEWAY_OIDC_REACH_LOCAL", "COMITIA_INFERENCE_CLAIM_SECONDS"}
ONLY_CHART: Final = frozenset(
    "JWKS_FROM_GATEWAY EDGE_NETWORKS LOG_LEVEL NOTICE_SECONDS DRAIN_SECONDS PEER_ADDRESS OTLP_ENDPOINT".split()
)
#: What a service that leaves need not wait for: streams that are taken up at another replica, and calls that wait for
#: what is recorded, which a repeat finds.
CUT_SHORT: Final = frozenset(
    "BatchEvaluate BatchGenerate BatchMemories BatchSpend ExportAudit ExportCosts ExportRun InferAgent LendWorker"
    " Reserve StreamTurns WatchGuard WatchRun WatchSession WatchViolations Work".split()
)
#: Variable that says where each port is listened at.
_LISTENING: Final = {"grpc": "LISTEN", "metrics": "METRICS_LISTEN", "doors": "DOORS_LISTEN"}
#: Read by no settings: what addresses are put together from, and the allocator.
HELPING: Final = {"MALLOC_ARENA_MAX", "PGSSLROOTCERT", "POD_IP", "POD_NAME", "APP_PASSWORD", "MAINTENANCE_PASSWORD"}


def workload(rendered: Rendered, service: str) -> dict[str, Any]:
    kind = "StatefulSet" if service == "orchestrator" else "Deployment"
    return rendered.named(kind, service)


def container(rendered: Rendered, service: str) -> dict[str, Any]:
    return workload(rendered, service)["spec"]["template"]["spec"]["containers"][0]


def environment(rendered: Rendered, service: str) -> dict[str, str]:
    """Resolves the variables of a service as the kubelet does; secrets are made up."""
    made_up = {"url": "nats://token@nats:4222", "status.podIP": "10.0.0.9", "metadata.name": "comitia-orchestrator-0"}
    found: dict[str, str] = {}
    for variable in container(rendered, service)["env"]:
        source = variable.get("valueFrom", {})
        where = source.get("secretKeyRef", {}).get("key") or source.get("fieldRef", {}).get("fieldPath", "")
        value = variable.get("value", made_up.get(where, "secret"))
        found[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda name: found[name[1]], value)
    return found


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_reads_every_variable_that_it_is_given(
    rendered: Rendered, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = environment(rendered, service)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = settings_of(service)
    read = {f"COMITIA_{service.upper()}_{field}".upper() for field in settings.model_fields}
    assert given.keys() - HELPING <= read
    built = settings.model_validate({})
    grace = workload(rendered, service)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace == built.notice_seconds + built.drain_seconds + 15
    assert built.database_url.get_secret_value().startswith(f"postgresql://comitia_{service}_app:secret@")


@pytest.mark.parametrize("service", ["policy", "memory", "tools", "cost"])
def test_a_service_is_like_inference_but_for_names_ports_and_what_it_alone_needs(
    rendered: Rendered, service: str
) -> None:
    """Inference was looked at in full, in the golden file; so whatever the others differ in must stand here."""
    own, inference = _alike(rendered, service), _alike(rendered, "inference")
    assert own[0] == inference[0]
    both = own[1].keys() & inference[1].keys()
    assert {name: own[1][name] for name in both} == {name: inference[1][name] for name in both}
    alone = {"policy": {"NATS_URL"}, "cost": {"NATS_URL"}, "memory": {"MILVUS_URL"}}
    assert own[1].keys() - both == alone.get(service, set())


@pytest.mark.parametrize("case", ["production", "east-west"])
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_told_what_it_is_told_by_comitia_up(
    renders: dict[str, Rendered], service: str, case: str, tmp_path: Path
) -> None:
    passwords = {f"{service}/{role}": "x" for role in ("app", "maintenance", "migrator")}
    facts = MeshFacts(
        data=DataDir(tmp_path),
        ports=PREFERRED,
        user={},
        databases=MeshDatabases(admin_url="postgresql://a@b/c", passwords=passwords, installation="i"),
        nats_url="nats://x",
        mtls=True,
        east_west=case == "east-west",
        milvus_url="http://milvus",
    )
    told = service_environment(service, facts).keys() - ONLY_LAUNCHER - {"MALLOC_ARENA_MAX"}
    given = environment(renders[case], service).keys() - HELPING
    own = f"COMITIA_{service.upper()}_"
    # NATS is named to those alone who speak to it, and only Milvus Lite, which no image holds, needs a folder.
    not_needed = {own + "NATS_URL", own + "DATA_DIR"}
    assert told - not_needed - given == set()
    chosen = {own + name for name in (*ONLY_CHART, *map(str.upper, _configured("production", service)))}
    assert given - told - chosen == set()


@pytest.mark.parametrize("case", ["production", "blue"])
def test_services_ask_for_the_databases_that_the_job_makes(renders: dict[str, Rendered], case: str) -> None:
    job = renders[case].named("Job", "migrate")["spec"]["template"]["spec"]["containers"][0]
    told = {one["name"]: one.get("value", "") for one in job["env"]}
    databases = MeshDatabases(
        admin_url="postgresql://admin@postgres.data:5432/postgres?sslmode=verify-full",
        passwords={f"{service}/{role}": "secret" for service in SERVICES for role in ROLES},
        installation="i",
        prefix=prefix_from(told),
    )
    assert databases.prefix == ("blue" if case == "blue" else "comitia")
    for service in SERVICES:
        given, own = environment(renders[case], service), f"COMITIA_{service.upper()}_"
        assert given[f"{own}DATABASE_URL"] == databases.url(service, "app")
        assert given[f"{own}MAINTENANCE_DATABASE_URL"] == databases.url(service, "maintenance")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_that_leaves_gives_its_longest_call_the_time_to_end(
    renders: dict[str, Rendered], service: str
) -> None:
    longest = max(
        guard.max_seconds or DEFAULT_MAX_SECONDS
        for name, guard in GUARDS.items()
        if name.split(".")[1] in (service, "common") and name.rpartition("/")[2] not in CUT_SHORT
    )
    pod = workload(renders["default"], service)["spec"]["template"]["spec"]
    assert longest <= float(environment(renders["default"], service)[f"COMITIA_{service.upper()}_DRAIN_SECONDS"])
    assert longest < pod["terminationGracePeriodSeconds"]
    if service in ("inference", "tools"):
        edge = renders["default"].named("Deployment", "edge")["spec"]["template"]["spec"]
        assert longest < edge["terminationGracePeriodSeconds"]


def test_a_listener_that_leaves_gives_the_longest_call_and_two_streams_the_time_to_end(
    renders: dict[str, Rendered],
) -> None:
    """Two, since a connection is told with the next call on it, and that may be a stream that replaces another."""
    longest = max(
        rpc.guard.max_seconds or DEFAULT_MAX_SECONDS
        for rpc in (*INTERNAL, *PUBLIC)
        if not rpc.streams and not rpc.method.client_streaming
    )
    pod = renders["east-west"].named("Deployment", "east-west")["spec"]["template"]["spec"]
    (arguments,) = (one["args"] for one in pod["containers"] if one["name"] == "envoy")
    drain = float(arguments[arguments.index("--drain-time-s") + 1])
    assert drain >= longest
    assert drain >= 2 * STREAM_SECONDS * SPREAD[1]
    assert drain < pod["terminationGracePeriodSeconds"]


def test_ports_and_probes_are_those_that_services_listen_at(rendered: Rendered) -> None:
    for service in SERVICES:
        given = environment(rendered, service)
        ports = {port["name"]: port["containerPort"] for port in container(rendered, service)["ports"]}
        expected = {"grpc": PREFERRED[service], "metrics": PREFERRED[metrics_port_name(service)]}
        if service == "inference":
            expected["doors"] = PREFERRED[DOORS]
        assert ports == expected
        for name, port in expected.items():
            assert given[f"COMITIA_{service.upper()}_{_LISTENING[name]}"].endswith(f":{port}")
        exposed = {port["name"]: port["port"] for port in rendered.named("Service", service)["spec"]["ports"]}
        assert exposed == expected
        assert f"COMITIA_{service.upper()}_{service.upper()}_TARGET" in given
        certified = f"COMITIA_{service.upper()}_TLS_CERT_PATH" in given
        readiness = container(rendered, service)["readinessProbe"]
        # A kubelet has no certificate, so where services want one it asks beside.
        assert ("httpGet" in readiness) == certified
        asked = readiness["httpGet"]["port"] if certified else readiness["grpc"]["port"]
        assert asked == ("metrics" if certified else PREFERRED[service])


def test_servers_beside_listen_where_they_are_asked(renders: dict[str, Rendered], tmp_path: Path) -> None:
    prepare(data := DataDir(tmp_path))
    made = PrintedSecrets("mesh")
    make_missing("comitia", data, made)
    (nats,) = (
        one["data"]["url"] for one in made.manifests()["items"] if one["metadata"]["name"] == "comitia-nats-keys"
    )
    rendered = renders["guarded"]
    asked = {
        "postgres": environment(rendered, "cost")["COMITIA_COST_DATABASE_URL"],
        "nats": b64decode(nats).decode(),
        "milvus": environment(rendered, "memory")["COMITIA_MEMORY_MILVUS_URL"],
        "local-model": environment(rendered, "inference")["COMITIA_INFERENCE_LOCAL_MODEL_URL"],
    }
    for server, url in asked.items():
        place = urlsplit(url)
        assert place.hostname == f"comitia-{server}"
        (service,) = rendered.named("Service", server)["spec"]["ports"]
        assert service["port"] == place.port
        (rule,) = rendered.named("NetworkPolicy", server)["spec"]["ingress"]
        assert rule["ports"] == [{"protocol": "TCP", "port": place.port}]
    assert urlsplit(asked["local-model"]).port == PREFERRED["local_model"]


def test_who_may_call_whom_is_who_does(renders: dict[str, Rendered]) -> None:
    for service in SERVICES:
        wiring = "".join(path.read_text() for path in (ROOT / "services" / service / "wiring").glob("*.py"))
        # Everybody follows the gateway; orchestrators lend each other workers.
        calls = {"gateway"} | ({"orchestrator"} if service == "orchestrator" else set())
        calls |= {name for name in SERVICES if f"settings.{name}_target" in wiring}
        assert calls == CALLS[service]
        policy = renders["default"].named("NetworkPolicy", service)
        components = [
            peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
            for rule in policy["spec"]["egress"]
            for peer in rule["to"]
            if "podSelector" in peer
        ]
        stores = {"postgres"} | ({"nats"} if "settings.nats_url" in wiring else set())
        stores |= {"milvus"} if "settings.milvus_url" in wiring else set()
        assert sorted(components) == sorted(calls | stores)
        for called in calls:
            ingress = renders["default"].named("NetworkPolicy", called)["spec"]["ingress"][0]
            assert ingress["ports"] == [{"protocol": "TCP", "port": PREFERRED[called]}]
            assert service in [
                peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in ingress["from"]
            ]


def test_between_services_stands_the_listener_alone_where_there_is_one(renders: dict[str, Rendered]) -> None:
    """But for the edge, and for orchestrators, who lend each other workers at their own addresses."""
    rendered = renders["east-west"]
    for service in SERVICES:
        policy = rendered.named("NetworkPolicy", service)["spec"]
        beside = {"orchestrator"} if service == "orchestrator" else set[str]()
        assert components(policy["ingress"][0]["from"]) == {"edge", "east-west"} | beside
        called = {name for rule in policy["egress"] for name in components(rule["to"])}
        assert called - {"postgres", "nats", "milvus"} == {"east-west"} | beside
        assert environment(rendered, service)[f"COMITIA_{service.upper()}_EAST_WEST_TARGET"] == "comitia-east-west:7409"
    own = rendered.named("NetworkPolicy", "east-west")["spec"]
    assert own["ingress"][0]["ports"] == [{"protocol": "TCP", "port": PREFERRED["east_west"]}]
    assert components(own["ingress"][0]["from"]) == set(SERVICES)
    reached = {name: rule["ports"][0]["port"] for rule in own["egress"] for name in components(rule["to"])}
    assert reached == {service: PREFERRED[service] for service in SERVICES}
    shown = rendered.named("Certificate", "east-west")["spec"]
    assert shown["dnsNames"] == [certified_name(EAST_WEST)]
    for case in ("default", "production"):
        assert not [one for one in renders[case].objects if one["metadata"]["name"].endswith("east-west")]


def test_a_listener_is_turned_on_and_off_without_a_pod_that_calls_where_it_may_not(
    renders: dict[str, Rendered],
) -> None:
    """Whom a pod calls by one step must be open to it by the next one, too, and the step before."""
    steps = [renders[name] for name in ("default", "east-west beside", "east-west through", "east-west")]

    def ways(rendered: Rendered) -> set[str]:
        through = "COMITIA_COST_EAST_WEST_TARGET" in environment(rendered, "cost")
        return {"east-west"} if through else {"cost"}

    def let_in(rendered: Rendered) -> set[str]:
        called = components(rendered.named("NetworkPolicy", "gateway")["spec"]["ingress"][0]["from"])
        return called & {"east-west", "cost"}

    assert [ways(step) for step in steps] == [{"cost"}, {"cost"}, {"east-west"}, {"east-west"}]
    for before, after in itertools.pairwise(steps):
        assert ways(before) <= let_in(after)
        assert ways(after) <= let_in(before)
    deployed = [[one["metadata"]["name"] for one in step.of_kind("Deployment")] for step in steps]
    assert ["comitia-east-west" in names for names in deployed] == [False, True, True, True]


def components(peers: list[dict[str, Any]]) -> set[str]:
    """Names the parts of the release in a list of peers."""
    return {
        peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in peers if "podSelector" in peer
    }


def test_nobody_but_monitoring_reaches_metrics_and_nobody_an_admin_page(rendered: Rendered) -> None:
    policies = rendered.of_kind("NetworkPolicy")
    nothing = rendered.named("NetworkPolicy", "nothing")["spec"]
    assert nothing["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & nothing.keys()
    private = {PREFERRED[metrics_port_name(service)] for service in SERVICES} | {METRICS_PORT}
    for policy in policies:
        for rule in policy["spec"].get("ingress", []):
            ports = {port["port"] for port in rule["ports"]}
            assert not ports & {PREFERRED["edge_admin"], PREFERRED["east_west_admin"], KEEPER_PORT, 8222, 9091, 2379}
            if ports & private:
                assert rule["from"] == [
                    {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
                ]
    open_to_all = [
        policy["metadata"]["name"]
        for policy in policies
        if any("from" not in rule for rule in policy["spec"].get("ingress", []))
    ]
    assert open_to_all == ["comitia-edge"]
    published = [port["targetPort"] for port in rendered.named("Service", "edge")["spec"]["ports"]]
    assert published == ["edge"]


@pytest.mark.parametrize("case", ["evaluation", "production"])
def test_envoy_takes_the_edge_that_is_rendered_for_the_cluster(
    renders: dict[str, Rendered], case: str, tmp_path: Path
) -> None:
    mounts, state = tmp_path / "mounts", tmp_path / "state"
    state.mkdir()
    for folder in ("edge", "keys", "tls", "mesh-tls"):
        (mounts / folder).mkdir(parents=True)
    wishes = renders[case].named("ConfigMap", "edge")["data"]["edge.json"]
    (mounts / "edge" / "edge.json").write_text(wishes)
    (mounts / "keys" / "jwks.json").write_text('{"keys": []}')
    authority = Authority()
    for folder in ("tls", "mesh-tls"):
        certificate, key = authority.signs("edge")
        (mounts / folder / "tls.crt").write_bytes(certificate)
        (mounts / folder / "tls.key").write_bytes(key)
        (mounts / folder / "ca.crt").write_bytes(authority.pem)
    refuses_nothing(edge_pod.render(mounts=mounts, state=state))
    settings = edge_pod.edge_settings(edge_pod.EdgeWishes.model_validate_json(wishes))
    assert (settings.mesh_tls is not None, settings.tls is not None) == (case == "production", case == "production")
    edge = renders[case].named("Deployment", "edge")["spec"]["template"]["spec"]
    ports = {port["name"]: port["containerPort"] for one in edge["containers"] for port in one["ports"]}
    assert ports == {"edge": settings.listen.port, "keeper": KEEPER_PORT, "metrics": METRICS_PORT}
    assert json.loads(wishes)["drain_seconds"] < edge["terminationGracePeriodSeconds"]


def test_envoy_takes_the_listener_that_is_rendered_for_the_cluster(
    renders: dict[str, Rendered], tmp_path: Path
) -> None:
    rendered = renders["east-west"]
    mounts, state = tmp_path / "mounts", tmp_path / "state"
    for folder in (mounts / "east-west", mounts / "mesh-tls", state):
        folder.mkdir(parents=True)
    wishes = rendered.named("ConfigMap", "east-west")["data"]["east-west.json"]
    (mounts / "east-west" / "east-west.json").write_text(wishes)
    authority = Authority()
    certificate, key = authority.signs(EAST_WEST)
    for name, content in (("tls.crt", certificate), ("tls.key", key), ("ca.crt", authority.pem)):
        (mounts / "mesh-tls" / name).write_bytes(content)
    refuses_nothing(east_west_pod.render(mounts=mounts, state=state))
    settings = east_west_pod.east_west_settings(EnvoyWishes.model_validate_json(wishes))
    assert {name: f"{one.host}:{one.port}" for name, [one] in settings.services.items()} == {
        service: f"comitia-{service}:{PREFERRED[service]}" for service in SERVICES
    }
    pod = rendered.named("Deployment", "east-west")["spec"]["template"]["spec"]
    ports = {port["name"]: port["containerPort"] for one in pod["containers"] for port in one["ports"]}
    assert ports == {"east-west": settings.listen.port, "keeper": KEEPER_PORT, "metrics": METRICS_PORT}
    assert json.loads(wishes)["drain_seconds"] < pod["terminationGracePeriodSeconds"]
    assert rendered.named("PodDisruptionBudget", "east-west")


def refuses_nothing(configuration: Path) -> None:
    """Has Envoy look at a configuration."""
    done = subprocess.run(
        [envoy(), "--mode", "validate", "-c", str(configuration), "--log-level", "error"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_every_key_that_is_mounted_is_made(rendered: Rendered, tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    prepare(data)
    made = PrintedSecrets("mesh")
    make_missing("comitia", data, made)
    keys = {one["metadata"]["name"]: one["data"].keys() for one in made.manifests()["items"]}
    wanted: set[tuple[str, str]] = set()
    for one in rendered.of_kind("Deployment", "StatefulSet", "Job", "Pod"):
        text = json.dumps(one)
        wanted |= {(ref["name"], ref["key"]) for ref in _references(one) if ref["name"].endswith("-keys")}
        assert set(re.findall(r'"(?:secretName|name)": "(comitia-[a-z]+-keys)"', text)) <= keys.keys()
    assert wanted
    assert not [(name, key) for name, key in wanted if key not in keys.get(name, ())]
    mounted = [path for service in SERVICES for path in environment(rendered, service).values() if "/keys/" in path]
    files = {key for named in keys.values() for key in named}
    assert {Path(path).name for path in mounted} <= files


def test_queues_that_replicas_follow_are_queues_of_the_service() -> None:
    values = yaml.safe_load((CHART / "values" / "production.yaml").read_text())["services"]
    queues = {
        service: one["autoscaling"]["queue"]["name"]
        for service, one in values.items()
        if "queue" in one.get("autoscaling", {})
    }
    assert queues.keys() == {"orchestrator", "inference"}
    for service, queue in queues.items():
        code = [file.read_text() for file in (ROOT / "services" / service).rglob("*.py")]
        assert any(f'Final = "{queue}"' in text and "QUEUE_ITEMS" in text for text in code), queue


def test_servers_beside_are_those_that_are_tested_and_those_of_the_compose_file() -> None:
    dockerfile = read_dockerfile()
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    composed = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
    tags = {server: values[server]["image"]["tag"] for server in ("postgres", "nats", "milvus")}
    for server, tag in tags.items():
        assert composed[server]["image"].rpartition(":")[2].removesuffix("-alpine") == tag
    assert dockerfile.arguments["ENVOY_IMAGE"].rpartition(":")[2] == values["edge"]["image"]["tag"]
    # A client of Milvus is for servers of its own minor version, and says so itself.
    client = locked_version("memory", "pymilvus")
    assert client.split(".")[:2] == tags["milvus"].removeprefix("v").split(".")[:2]


def locked_version(image: str, package: str) -> str:
    """Gives the version of a package that an image holds."""
    (found,) = re.findall(rf"^{package}==(\S+)", (ROOT / "locks" / "images" / f"{image}.txt").read_text(), re.MULTILINE)
    return found


def test_examples_name_files_of_values_that_are_there() -> None:
    examples = CHART.parent / "examples"
    argo = yaml.safe_load((examples / "argo-cd.yaml").read_text())
    assert all((CHART / file).exists() for file in argo["spec"]["source"]["helm"]["valueFiles"])
    _, release = yaml.safe_load_all((examples / "flux.yaml").read_text())
    assert all((ROOT / file).exists() for file in release["spec"]["chart"]["spec"]["valuesFiles"])


def _alike(rendered: Rendered, service: str) -> tuple[Any, dict[str, str]]:
    """Gives the workload and the environment of a service, without what another test holds against the code."""
    whole = json.loads(json.dumps(workload(rendered, service)["spec"]))
    pod = whole["template"]["spec"]
    (main,) = pod["containers"]
    for owner, keys in ((pod, ("runtimeClassName", "terminationGracePeriodSeconds")), (main, ("resources", "ports"))):
        for key in keys:
            owner.pop(key, None)
    probe = main["readinessProbe"].get("grpc")
    if probe:
        del probe["port"]
    prefix, variables = f"COMITIA_{service.upper()}_", {}
    for one in main.pop("env"):
        name = one.pop("name").removeprefix(prefix)
        if name not in ("LISTEN", "METRICS_LISTEN", "DRAIN_SECONDS"):
            text = json.dumps(one).replace(f"comitia_{service}", "comitia_x")
            variables[name] = text.replace(f"comitia-{service}-keys", "comitia-x-keys")
    return json.loads(json.dumps(whole).replace(service, "x")), variables


def _references(one: Any) -> list[dict[str, str]]:
    if isinstance(one, list):
        return [found for part in one for found in _references(part)]
    if not isinstance(one, dict):
        return []
    own = [one["secretKeyRef"]] if "secretKeyRef" in one else []
    return own + [found for part in one.values() for found in _references(part)]


def _configured(case: str, service: str) -> set[str]:
    values = yaml.safe_load((CHART / "values" / f"{case}.yaml").read_text())["services"].get(service, {})
    return {*values.get("settings", {}), *values.get("secretSettings", {})}
