"""The workflows: GitHub takes them, they run what everybody runs, and nobody gets more out of them than they should."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.dockerfile import ROOT, Dockerfile

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
BIN = Path(sys.executable).parent

each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def steps_of(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job.get("steps", [])]


@pytest.mark.parametrize(
    ("schema", "files"), [("github-workflows", WORKFLOWS), ("dependabot", [ROOT / ".github" / "dependabot.yml"])]
)
def test_github_takes_them(schema: str, files: list[Path]) -> None:
    checked = subprocess.run(
        [BIN / "check-jsonschema", "--builtin-schema", f"vendor.{schema}", *files],
        capture_output=True,
        text=True,
        check=False,
    )
    assert len(files) > 0
    assert checked.returncode == 0, checked.stdout


def test_who_looks_for_ways_to_abuse_them_finds_none() -> None:
    found = subprocess.run(
        [BIN / "zizmor", "--quiet", "--offline", "--min-severity", "medium", ROOT / ".github"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout


@each_workflow
def test_actions_of_others_are_named_by_their_commit(path: Path) -> None:
    for used in re.findall(r"uses: (\S+)", path.read_text()):
        assert used.startswith("./") or re.search(r"@[0-9a-f]{40}$", used), used


@each_workflow
def test_a_job_ends_and_may_do_no_more_than_it_says(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert "uses" in job or job["timeout-minutes"] <= 90, name


@each_workflow
def test_what_is_run_is_a_target_of_make(path: Path) -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = {
        target
        for step in steps_of(read(path))
        for target in re.findall(r"^\s*make ([\w-]+)", step.get("run", ""), re.MULTILINE)
    }
    assert used <= targets
    assert used or path.name == "codeql.yml"


def test_every_change_is_linted_tested_and_audited() -> None:
    run = " ".join(step.get("run", "") for step in steps_of(read(ROOT / ".github/workflows/check.yml")))
    for target in ("lint", "coverage", "audit", "check-deploy", "scan-deploy"):
        assert f"make {target}" in run


def test_all_images_are_scanned(dockerfile: Dockerfile) -> None:
    scan = read(ROOT / ".github/workflows/images.yml")["jobs"]["scan"]
    assert sorted(scan["strategy"]["matrix"]["image"]) == sorted(dockerfile.images)


def test_a_release_waits_for_all_checks_and_has_bills_of_materials() -> None:
    release = read(ROOT / ".github/workflows/release.yml")["jobs"]
    assert release["check"]["uses"] == "./.github/workflows/check.yml"
    assert release["images"]["needs"] == release["wheel"]["needs"] == "check"
    assert set(release["publish"]["needs"]) == {"images", "wheel"}
    run = " ".join(step.get("run", "") for step in release["images"]["steps"])
    assert "--sbom=true" in run
    assert "cosign sign" in run
