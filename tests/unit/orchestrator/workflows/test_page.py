"""What docs/workflows.md shows is taken, and it names every reason."""

import re
from pathlib import Path

import pytest

from services.orchestrator.workflows.definition import read_text
from services.orchestrator.workflows.faults import Reason
from tests.support.definitions import pin

PAGE = (Path(__file__).parents[4] / "docs" / "workflows.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```(?:yaml|json)\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("text", EXAMPLES)
def test_an_example_of_the_page_is_sound(text: str) -> None:
    draft = read_text(text, None)
    assert pin(draft) is not None, draft.faults.found


def test_the_page_has_examples_of_every_form() -> None:
    assert len(EXAMPLES) == 5


def test_the_page_says_what_to_do_about_every_reason() -> None:
    named = set(re.findall(r"`([A-Z_]{4,})`", PAGE.partition("## Faults")[2]))
    assert named == {reason.value for reason in Reason}
