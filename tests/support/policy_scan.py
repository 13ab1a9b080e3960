"""Holds the chart, by all files of values, and the Dockerfile against the policies of a scanner.

python -m tests.support.policy_scan .out/policy-scan/bin/checkov      what `make scan-deploy` runs
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from tests.contract.chart.conftest import VALUES
from tests.support.dockerfile import DOCKERFILE
from tests.support.render_chart import render

#: Findings that are meant, by the number of the check, each with the objects in which it is.
MEANT: Final[Mapping[str, str]] = {
    # No limit of CPU: event loops that are throttled miss deadlines.
    "CKV_K8S_11": r".*",
    # Digests are for whoever installs: `digest` beside each image. Tags of releases do not move, and are pulled once.
    "CKV_K8S_43": r".*",
    "CKV_K8S_15": r".*",
    # Passwords and addresses of servers are settings, which stand in the environment; keys are files.
    "CKV_K8S_35": r"(Deployment|StatefulSet|Job|Pod)\..*",
    # The keeper beside Envoy answers for both, and pods of tests end.
    "CKV_K8S_8": r"Deployment\..*-edge|Pod\..*-test-.*",
    "CKV_K8S_9": r"Deployment\..*-edge|Pod\..*-test-.*",
    # It makes Secrets, with an account that may do this alone.
    "CKV_K8S_38": r"Job\..*-keys",
    # Users of the images of others.
    "CKV_K8S_40": r"StatefulSet\..*-(milvus|nats|postgres)",
    # Names of images are arguments above, which it does not follow; `test_images.py` holds them to versions.
    "CKV_DOCKER_7": r".*",
}


def manifests(folder: Path) -> None:
    """Writes what the chart makes of each file of values."""
    for name, rendered in render({name: {"values": values} for name, values in VALUES.items()}).items():
        if rendered.error:
            sys.exit(f"{name}: {rendered.error}")
        (folder / f"{name}.yaml").write_text(yaml.safe_dump_all(rendered.objects), encoding="utf-8")


def findings(checkov: str, framework: str, *where: str) -> tuple[int, list[dict[str, Any]]]:
    """Gives how many checks passed, and what was found."""
    command = [
        checkov,
        "--framework",
        framework,
        *where,
        "--output",
        "json",
        "--quiet",
        "--skip-download",
        "--soft-fail",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    if report["summary"]["parsing_errors"] or not report["summary"]["passed"]:
        sys.exit(f"{framework}: nothing was looked at, or not all\n{done.stderr}")
    return report["summary"]["passed"], report["results"]["failed_checks"]


def unmeant(found: list[dict[str, Any]]) -> Iterator[str]:
    """Gives a line for each finding that nobody has decided to live with."""
    for one in found:
        if not re.fullmatch(MEANT.get(one["check_id"], ""), one["resource"]):
            yield f"{one['resource']}: {one['check_id']} {one['check_name']}"


def main(checkov: str) -> int:
    """Runs from the command line. Returns the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        manifests(Path(folder))
        looked = [
            findings(checkov, "kubernetes", "--directory", folder),
            findings(checkov, "dockerfile", "--file", str(DOCKERFILE)),
        ]
    complaints = sorted({line for _, found in looked for line in unmeant(found)})
    meant = sum(len(found) for _, found in looked)
    sys.stdout.write("".join(f"{line}\n" for line in complaints))
    if not complaints:
        sys.stdout.write(f"{sum(passed for passed, _ in looked)} checks passed, {meant} findings are meant\n")
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
