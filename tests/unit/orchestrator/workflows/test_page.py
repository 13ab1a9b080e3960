"""What docs/workflows.md and docs/estimates.md show is taken, and the first names every reason."""

import re
from pathlib import Path

import pytest

from services.orchestrator.workflows.definition import read_text
from services.orchestrator.workflows.faults import Reason
from tests.support.definitions import pin

DOCS = Path(__file__).parents[4] / "docs"
PAGE, ESTIMATES = ((DOCS / name).read_text(encoding="utf-8") for name in ("workflows.md", "estimates.md"))
EXAMPLES, POLICIES = (
    re.findall(r"^```(?:yaml|json)\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE) for page in (PAGE, ESTIMATES)
)


@pytest.mark.parametrize("text", [*EXAMPLES, *POLICIES])
def test_an_example_of_the_page_is_sound(text: str) -> None:
    draft = read_text(text, None)
    assert pin(draft) is not None, draft.faults.found


def test_the_page_has_examples_of_every_form() -> None:
    assert (len(EXAMPLES), len(POLICIES)) == (5, 1)


def test_the_page_says_what_to_do_about_every_reason() -> None:
    named = set(re.findall(r"`([A-Z_]{4,})`", PAGE.partition("## Faults")[2]))
    assert named == {reason.value for reason in Reason}
