"""What the chart makes is what Kubernetes takes, no looser than it must be, and changes only where it is meant to."""

import json
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import jsonschema
import kubernetes_validate
import pytest
import yaml
from kubernetes_validate import utils

from tests.contract.chart import golden
from tests.contract.chart.conftest import CONTRADICTIONS, THREADS
from tests.support.chart import CHART, described
from tests.support.render_chart import Rendered, render

#: Of others, whose schemas Kubernetes does not know.
FOREIGN: Final = (
    "cert-manager.io",
    "monitoring.coreos.com",
    "keda.sh",
    "autoscaling.k8s.io",
    "gateway.networking.k8s.io",
)
_NEWEST: Final = int(kubernetes_validate.latest_version().split(".")[1])
VERSIONS: Final = tuple(f"1.{minor}" for minor in range(27, _NEWEST + 1))


def pods(rendered: Rendered) -> Iterator[tuple[str, dict[str, Any]]]:
    """Gives every pod that would run, with the name of its owner."""
    for one in rendered.of_kind("Deployment", "StatefulSet", "Job"):
        yield one["metadata"]["name"], one["spec"]["template"]["spec"]
    for one in rendered.of_kind("Pod"):
        yield one["metadata"]["name"], one["spec"]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod["containers"], *pod.get("initContainers", [])]


def test_lint_has_nothing_to_say(rendered: Rendered) -> None:
    assert not rendered.lint


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_one_of_kubernetes(
    renders: dict[str, Rendered], version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(utils, "schema_contents", cache(utils.schema_contents))
    found = {json.dumps(one, sort_keys=True): one for rendered in renders.values() for one in rendered.objects}
    assert len(found) > 200
    for one in found.values():
        if one["apiVersion"].partition("/")[0] in FOREIGN:
            continue
        try:
            kubernetes_validate.validate(one, version, strict=True)
        except jsonschema.ValidationError as error:
            pytest.fail(f"{one['kind']} {one['metadata']['name']}: {list(error.path)} {error.message}")


def test_every_pod_keeps_to_pod_security_restricted(rendered: Rendered) -> None:
    for name, pod in pods(rendered):
        shared = pod["securityContext"]
        assert shared["runAsNonRoot"], name
        assert shared["runAsUser"] > 0, name
        assert shared["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        assert all(volume.keys() - {"name", "hostPath"} for volume in pod.get("volumes", [])), name
        for one in containers(pod):
            own = one["securityContext"]
            assert own["readOnlyRootFilesystem"], name
            assert own["allowPrivilegeEscalation"] is False, name
            assert own["capabilities"] == {"drop": ["ALL"]}, name
            assert "privileged" not in own, name
            assert one["resources"]["limits"]["memory"], name
            assert one["resources"]["requests"].keys() == {"cpu", "memory"}, name
            assert not one["image"].endswith(":latest"), name
            assert not any("hostPort" in port for port in one.get("ports", [])), name


def test_probes_and_hooks_name_ports_of_their_own_container(rendered: Rendered) -> None:
    for name, pod in pods(rendered):
        numbers = {port["containerPort"] for one in pod["containers"] for port in one.get("ports", [])}
        for one in containers(pod):
            named = {port["name"] for port in one.get("ports", [])}
            asked = [one.get(f"{when}Probe", {}) for when in ("startup", "readiness", "liveness")]
            for action in (*asked, *one.get("lifecycle", {}).values()):
                for kind in ("httpGet", "tcpSocket", "grpc"):
                    port = action.get(kind, {}).get("port")
                    assert port is None or port in (named if isinstance(port, str) else numbers), (name, one["name"])


def test_only_the_job_that_makes_keys_has_an_account_and_it_reads_no_other_secret(rendered: Rendered) -> None:
    with_account = [name for name, pod in pods(rendered) if pod["automountServiceAccountToken"]]
    assert with_account == ["comitia-keys"]
    named = [rule for role in rendered.of_kind("Role") for rule in role["rules"] if rule["verbs"] != ["create"]]
    assert named
    assert all(rule["resources"] == ["secrets"] and rule["resourceNames"] for rule in named)


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_values_that_contradict_each_other_are_refused_with_a_sentence(renders: dict[str, Rendered], name: str) -> None:
    assert CONTRADICTIONS[name][1] in renders[name].error


def test_what_is_rendered_was_looked_at(renders: dict[str, Rendered]) -> None:
    looked_at = golden.FILE.read_text(encoding="utf-8")
    assert golden.golden_text(renders[golden.VALUES]) == looked_at, "run `make charts`, and look at what changed"


def test_a_new_release_changes_images_and_nothing_else(renders: dict[str, Rendered]) -> None:
    before, after = renders["same release"], renders["new release"]
    changed = set(_differences(before.objects, after.objects))
    assert changed
    assert {path.rpartition(".")[2] for path in changed} == {"image"}


def test_more_edges_are_no_reason_to_start_those_that_run_anew(renders: dict[str, Rendered]) -> None:
    before, after = renders["default"], renders["more edges"]
    changed = set(_differences(before.objects, after.objects))
    assert changed == {".spec.replicas", ".metadata.annotations"}


def test_a_new_chart_with_the_same_images_starts_no_pod_anew(tmp_path: Path) -> None:
    shutil.copytree(CHART, chart := tmp_path / "comitia")
    described = (chart / "Chart.yaml").read_text(encoding="utf-8")
    (chart / "Chart.yaml").write_text(described.replace("ersion: 0.1.0", "ersion: 9.9.9"), encoding="utf-8")
    case = {"upgrade": {"values": {"image": {"tag": "1"}, "localModel": {"enabled": True}}, "upgrade": True}}
    before, after = (render(case, chart=one)["upgrade"].objects for one in (CHART, chart))
    changed = set(_differences(before, after))
    assert changed == {".metadata.labels.app.kubernetes.io/version", ".metadata.labels.helm.sh/chart"}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"size": "10Gi"}, ""),
        (
            {"size": "20Gi"},
            (
                "leave postgres.size at 20Gi, and let the claim itself grow if it is to be another size, for one size "
                "may be written in two ways, as 1024Mi and 1Gi: kubectl -n mesh patch pvc "
                """data-comitia-postgres-0 --type merge -p '{"spec":{"resources":{"requests":{"storage":"10Gi"}}}}'"""
            ),
        ),
        ({"size": "10Gi", "class": "fast"}, 'storageClass is "", and the claim was made with "fast"'),
    ],
)
def test_claims_of_servers_keep_what_they_were_made_with(found: dict[str, str], said: str, tmp_path: Path) -> None:
    shutil.copytree(CHART, chart := tmp_path / "comitia")
    claim = {"resources": {"requests": {"storage": found["size"]}}, "storageClassName": found.get("class")}
    standing = {"metadata": {"namespace": "mesh"}, "spec": {"volumeClaimTemplates": [{"spec": claim}]}}
    asked = f'"name" "comitia-postgres" "values" .Values.postgres "found" (fromJson `{json.dumps(standing)}`)'
    template = f'{{{{ include "comitia.claimCheck" (dict "server" "postgres" {asked}) }}}}'
    (chart / "templates" / "standing.yaml").write_text(template, encoding="utf-8")
    error = render({"one": {"values": {}}}, chart=chart)["one"].error
    assert bool(error) == bool(said)
    assert said in error


def test_a_first_install_that_failed_is_repaired_by_an_upgrade(renders: dict[str, Rendered]) -> None:
    """No Postgres is found, as after such an install, so nothing may wait for one before the release is there."""
    first, repair = renders["default"], renders["repair"]
    assert [one["metadata"]["name"] for one in first.objects if one not in repair.objects] == ["comitia-migrate"]
    assert all(one in first.objects for one in repair.objects)


def test_what_older_code_needs_is_taken_away_only_if_somebody_says_so(renders: dict[str, Rendered]) -> None:
    for name, rendered in renders.items():
        found = [one for one in rendered.of_kind("Job") if one["metadata"]["name"].endswith("-contract")]
        assert bool(found) == (name == "contract"), name
    job = renders["contract"].named("Job", "migrate-contract")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "post-upgrade"
    assert "contract" in job["spec"]["template"]["spec"]["containers"][0]["args"]


def test_names_stay_short_and_great_numbers_plain(renders: dict[str, Rendered]) -> None:
    assert not renders["long"].error
    for one in renders["long"].objects:
        name = one["metadata"]["name"]
        # A StatefulSet adds a dash and a hash of ten letters.
        assert len(name) + (11 if one["kind"] == "StatefulSet" else 0) <= 63
        assert "." not in name
    said = [one["args"] for _, pod in pods(renders["long"]) for one in pod["containers"] if one["name"] == "postgres"]
    assert said == [["-c", "max_connections=2000000"]]


def test_helm_test_comes_through_policies_and_its_pods_stay(renders: dict[str, Rendered]) -> None:
    edge, test = (renders["guarded"].named("NetworkPolicy", name)["spec"] for name in ("edge", "test"))
    admitted = [peer.get("podSelector", {}).get("matchLabels", {}) for peer in edge["ingress"][0]["from"]]
    assert "test" in [labels.get("app.kubernetes.io/component") for labels in admitted]
    assert test["egress"][-1] == {"ports": [{"protocol": "TCP", "port": 8443}]}
    for pod in renders["guarded"].of_kind("Pod"):
        assert pod["metadata"]["annotations"]["helm.sh/hook-delete-policy"] == "before-hook-creation"


def test_policies_follow_where_names_clusters_and_collectors_are_said_to_be(renders: dict[str, Rendered]) -> None:
    rules = {
        name: renders["guarded"].named("NetworkPolicy", name)["spec"]["egress"] for name in ("names", "keys", "cost")
    }
    assert rules["names"] == [
        {
            "to": [{"ipBlock": {"cidr": "169.254.20.10/32"}}],
            "ports": [{"protocol": protocol, "port": 5353} for protocol in ("UDP", "TCP")],
        }
    ]
    assert rules["keys"] == [
        {"to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}], "ports": [{"protocol": "TCP", "port": 8443}]}
    ]
    assert rules["cost"][-1] == {"to": [], "ports": [{"protocol": "TCP", "port": 4318}]}


@pytest.mark.parametrize("name", ["edge", "east-west"])
@pytest.mark.parametrize(("threads", "values"), THREADS)
def test_envoy_takes_as_many_threads_as_it_has_processors(
    renders: dict[str, Rendered], threads: int, values: dict[str, Any], name: str
) -> None:
    rendered = renders[f"{threads} threads of {values}"]
    pod = rendered.named("Deployment", name)["spec"]["template"]["spec"]
    (args,) = (one["args"] for one in pod["containers"] if one["name"] == "envoy")
    assert args[args.index("--concurrency") + 1] == str(threads)


def test_helm_is_told_to_wait_as_long_as_its_jobs_may_take(renders: dict[str, Rendered]) -> None:
    notes = next(text for name, text in renders["production"].files.items() if name.endswith("NOTES.txt"))
    jobs = [one["spec"]["activeDeadlineSeconds"] for one in renders["production"].of_kind("Job")]
    assert f"`--timeout {sum(jobs) // 60}m`" in notes


def test_an_authority_keeps_its_key_for_years(renders: dict[str, Rendered]) -> None:
    authority = renders["default"].named("Certificate", "authority")["spec"]
    assert authority["privateKey"]["rotationPolicy"] == "Never"
    assert int(authority["duration"].removesuffix("h")) >= 3 * 365 * 24


def test_dashboards_and_alerts_become_objects_as_they_lie(tmp_path: Path) -> None:
    chart = tmp_path / "comitia"
    shutil.copytree(CHART, chart)
    for file in (*chart.glob("files/rules/*.yaml"), *chart.glob("files/dashboards/*.json")):
        file.unlink()
    rule = "groups:\n- name: a\n  rules:\n  - {alert: A, expr: up, annotations: {summary: '{{ $labels.b }} is down'}}\n"
    (chart / "files" / "rules" / "one.yaml").write_text(rule)
    dashboard = json.dumps({"title": "One", "legend": "{{queue}}"}, indent=1)
    (chart / "files" / "dashboards" / "one.json").write_text(dashboard)
    flags = {"rules": {"enabled": True}, "dashboards": {"enabled": True}}
    rendered = render({"one": {"values": {"monitoring": flags}}}, chart=chart)["one"]
    assert rendered.named("PrometheusRule", "one")["spec"] == yaml.safe_load(rule)
    assert rendered.named("ConfigMap", "dashboard-one")["data"] == {"one.json": dashboard}


def test_rules_and_dashboards_of_this_chart_are_rendered_and_a_chart_without_is_refused(
    renders: dict[str, Rendered], tmp_path: Path
) -> None:
    rules = renders["production"].of_kind("PrometheusRule")
    assert len(rules) == len(list(CHART.glob("files/rules/*.yaml")))
    assert all(one["spec"]["groups"] for one in rules)
    boards = [one for one in renders["production"].of_kind("ConfigMap") if "-dashboard-" in one["metadata"]["name"]]
    assert len(boards) == len(list(CHART.glob("files/dashboards/*.json")))
    shutil.copytree(CHART, chart := tmp_path / "comitia", ignore=shutil.ignore_patterns("files"))
    for kind in ("rules", "dashboards"):
        rendered = render({"one": {"values": {"monitoring": {kind: {"enabled": True}}}}}, chart=chart)["one"]
        assert f"was packed without files/{kind}" in rendered.error


def test_every_value_has_a_sentence() -> None:
    said = {one.path: one.sentence for one in described()}
    assert len(said) > 120
    assert not [path for path, sentence in said.items() if not sentence.endswith(".")]


def _differences(before: Any, after: Any, path: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before.keys() | after.keys():
            yield from _differences(before.get(key), after.get(key), f"{path}.{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for one, other in zip(before, after, strict=True):
            yield from _differences(one, other, path)
    elif before != after:
        yield path
