"""Renders the chart by Helm's own code, in a process of its own: its runtime is Go's, which keeps signals to itself.

python -m tests.support.render_chart helm/comitia < cases.json > rendered.json
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import yaml

from tests.support.chart import CHART

#: Name and namespace of every release that is rendered here.
RELEASE: Final = "comitia"
NAMESPACE: Final = "mesh"
_SECONDS: Final = 120


@dataclass(frozen=True)
class Rendered:
    """What Helm makes of some values."""

    #: By file; empty where it refused.
    files: Mapping[str, str]
    #: Why it refused.
    error: str = ""
    #: What lint had to say, errors and warnings.
    lint: list[str] = field(default_factory=list[str])

    @cached_property
    def objects(self) -> list[dict[str, Any]]:
        """All objects, in order of file."""
        texts = [text for name, text in sorted(self.files.items()) if name.endswith(".yaml")]
        return [one for text in texts for one in yaml.load_all(text, yaml.CSafeLoader) if one]

    def of_kind(self, *kinds: str) -> list[dict[str, Any]]:
        """The objects of some kinds."""
        return [one for one in self.objects if one["kind"] in kinds]

    def named(self, kind: str, name: str) -> dict[str, Any]:
        """The one object of this kind and name, without that of the release."""
        (found,) = (one for one in self.of_kind(kind) if one["metadata"]["name"] == f"{RELEASE}-{name}")
        return found


def values_of(*names: str) -> dict[str, Any]:
    """Reads files of values, a later one over an earlier."""
    whole: dict[str, Any] = {}
    for name in names:
        whole = _merged(whole, yaml.safe_load((CHART / "values" / f"{name}.yaml").read_text(encoding="utf-8")))
    return whole


def render(cases: Mapping[str, Mapping[str, Any]], *, chart: Path = CHART) -> dict[str, Rendered]:
    """Renders values by name of the case. `upgrade: true` beside them renders an upgrade, `lint: true` lints too."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.render_chart", str(chart)],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=True,
        timeout=_SECONDS,
    )
    return {name: Rendered(**one) for name, one in json.loads(done.stdout).items()}


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = {**under, **over}
    for key in under.keys() & over.keys():
        if isinstance(under[key], dict) and isinstance(over[key], dict):
            both[key] = _merged(under[key], over[key])
    return both


def main(path: str) -> None:
    """Renders what is asked for."""
    import helm_python

    answers: dict[str, Any] = {}
    with helm_python.Chart.load(path) as chart:
        for name, case in json.load(sys.stdin).items():
            upgrade = case.get("upgrade", False)
            lint: list[str] = []
            if case.get("lint"):
                said = helm_python.lint(path, case["values"], namespace=NAMESPACE, strict=True)
                lint = [*said["errors"], *(one["error"] for one in said["messages"] if one["severity"] > 1)]
            try:
                files = chart.render(
                    case["values"], name=RELEASE, namespace=NAMESPACE, is_install=not upgrade, is_upgrade=upgrade
                )
                answers[name] = {"files": files, "lint": lint}
            except helm_python.HelmError as error:
                answers[name] = {"files": {}, "error": str(error), "lint": lint}
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
