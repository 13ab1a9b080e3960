"""The page of what is read again names settings that exist and tests that exist."""

import re
from pathlib import Path
from typing import Final

from services.meshkit.settings import ServiceSettings

CHECKOUT: Final = Path(__file__).parents[3]
PAGE: Final = (CHECKOUT / "docs" / "changing.md").read_text(encoding="utf-8")
_ROW: Final = re.compile(r"^\| [^|]+\|(?P<settings>[^|]*)\|[^|]+\| `(?P<file>[^|:]+)::(?P<test>\w+)` \|$", re.MULTILINE)


def test_each_row_names_its_settings_and_a_test_that_shows_it() -> None:
    rows = list(_ROW.finditer(PAGE))
    assert len(rows) == PAGE.count("\n| ") - 1, "a row is not as the others"
    for row in rows:
        assert set(re.findall(r"`(\w+)`", row["settings"])) <= ServiceSettings.model_fields.keys()
        assert f"def {row['test']}" in (CHECKOUT / row["file"]).read_text(encoding="utf-8"), row["test"]


def test_every_setting_that_says_so_is_on_the_page() -> None:
    said = {
        name
        for name, field in ServiceSettings.model_fields.items()
        if re.search(r"re-read|read for every", field.description or "")
    }
    assert len(said) >= 3
    assert all(f"`{name}`" in PAGE for name in said)
