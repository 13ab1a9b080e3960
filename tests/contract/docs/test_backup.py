"""The page on backups names commands, modules and tables that exist, and sentences that are said."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer.main

from comitia_sdk.cli.main import app

CHECKOUT = Path(__file__).parents[3]
PAGE = (CHECKOUT / "docs" / "backup.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^comitia [^#\n]+", PAGE, re.MULTILINE)
SAID = [
    sentence for row in re.findall(r"^\| (`.+?) \|", PAGE, re.MULTILINE) for sentence in re.findall("`([^`]+)`", row)
]


@pytest.mark.parametrize("line", COMMANDS)
def test_each_command_is_one(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    group: Any = typer.main.get_command(app)
    group.commands[name].make_context(name, arguments)


def test_each_module_is_there() -> None:
    modules = set(re.findall(r"python -m (services[\w.]+)", PAGE))
    assert {module for module in modules if find_spec(module) is not None} == modules
    assert len(modules) == 3


@pytest.mark.parametrize("sentence", SAID)
def test_each_refusal_is_said_somewhere(sentence: str) -> None:
    """Of a sentence with a part that differs, its longest part that does not."""
    constant = max(re.split(r"…|\d+ of \d+|manifest.json", sentence), key=len).strip(" ,:")
    code = "".join(file.read_text(encoding="utf-8") for file in (CHECKOUT / "services/launcher").rglob("*.py"))
    assert constant in code, constant
