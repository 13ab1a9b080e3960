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

from tests.contract.chart.conftest import CONTRADICTIONS
from tests.contract.chart.golden import GOLDEN, golden_file
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
VERSIONS: Final = ("1.27", kubernetes_validate.latest_version())


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


@pytest.mark.parametrize("name", GOLDEN)
def test_what_is_rendered_was_looked_at(renders: dict[str, Rendered], name: str) -> None:
    assert renders[name].text == golden_file(name).read_text(encoding="utf-8"), (
        "run `make charts`, and look at what changed"
    )


def test_a_new_release_changes_images_and_nothing_else(renders: dict[str, Rendered]) -> None:
    before, after = renders["same release"], renders["new release"]
    changed = set(_differences(before.objects, after.objects))
    assert changed
    assert {path.rpartition(".")[2] for path in changed} == {"image"}


def test_an_upgrade_only_drops_the_job_of_the_first_migration(renders: dict[str, Rendered]) -> None:
    first, later = renders["default"], renders["upgrade"]
    gone = [one["metadata"]["name"] for one in first.objects if one not in later.objects]
    assert gone == ["comitia-migrate-first"]
    assert all(one in first.objects for one in later.objects)


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
