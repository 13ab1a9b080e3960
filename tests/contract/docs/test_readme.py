"""README.md, CHANGELOG.md and docs say what is there. The snippets themselves run in tests/e2e/test_readme.py."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer

from comitia_sdk.cli.main import app
from services.inference.settings import InferenceSettings
from tests.support.readme import BUDGETS, CHECKOUT, MODELS, README, Snippet, snippets

PAGES = [README, CHECKOUT / "CHANGELOG.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
SNIPPETS = snippets()
OF_PAGES = [*snippets(BUDGETS), *snippets(MODELS)]
_LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def test_each_snippet_says_how_it_is_run() -> None:
    assert len(SNIPPETS) >= 10
    assert {snippet.language for snippet in SNIPPETS} == {"bash", "python"}
    assert {snippet.run for snippet in SNIPPETS} == {"fresh", "setup", "mesh", "provider", "own-key"}
    assert all(snippet.shows for snippet in SNIPPETS if snippet.run in ("mesh", "provider", "own-key"))


def test_each_snippet_of_a_page_runs_on_a_mesh() -> None:
    assert {snippet.run for snippet in OF_PAGES} == {"mesh"}
    assert all(snippet.shows for snippet in OF_PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in _LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("snippet", [*SNIPPETS, *OF_PAGES], ids=lambda snippet: snippet.name)
def test_snippets_can_be_read(snippet: Snippet) -> None:
    if snippet.language == "python":
        ast.parse(snippet.code)
        return
    done = subprocess.run(["bash", "-n"], input=snippet.code, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "text", [page.read_text(encoding="utf-8") for page in PAGES], ids=[page.name for page in PAGES]
)
def test_the_make_targets_and_commands_that_are_named_exist(text: str) -> None:
    rules = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)$", text, re.MULTILINE)):
        name = target[0] or target[1]
        pattern = re.sub("^bench-.*", "bench-%", name)
        assert re.search(rf"^({name}|{pattern}):", rules, re.MULTILINE), f"make {name}"
    root = typer.main.get_command(app)
    for words in re.findall(r"(?:^|[`|(]\s*)comitia ((?:[a-z][a-z-]* ?){1,2})", text, re.MULTILINE):
        first, *rest = words.split()
        command = root.commands.get(first)  # type: ignore[attr-defined]
        assert command is not None, f"comitia {words}"
        assert not rest or not hasattr(command, "commands") or rest[0] in command.commands, f"comitia {words}"


def test_the_variables_of_models_are_those_that_inference_reads() -> None:
    text = README.read_text(encoding="utf-8")
    named = set(re.findall(r"`COMITIA_INFERENCE_([A-Z_]+)`", text))
    assert named
    assert {name.lower() for name in named} <= set(InferenceSettings.model_fields)
    for provider in ("openai", "anthropic"):
        fields = InferenceSettings.model_fields
        assert f"`{fields[f'{provider}_model'].default}`" in text
        assert f"`{provider.upper()}_API_KEY`" in text
        assert f"{provider.upper()}_API_KEY" in str(fields[f"{provider}_api_key"].validation_alias)


def test_the_changelog_leads_to_the_version_of_the_package() -> None:
    version = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    changelog = (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in changelog
    assert version in changelog


def test_every_picture_is_drawn_and_described() -> None:
    picture = (CHECKOUT / "docs" / "architecture.svg").read_text(encoding="utf-8")
    assert "<desc" in picture
    for part in ("edge", "gateway", "orchestrator", "inference", "policy", "memory", "tools", "cost", "Postgres"):
        assert f">{part}" in picture, part
