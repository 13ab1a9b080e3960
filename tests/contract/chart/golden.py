"""The chart as it was last looked at, as files beside this one.

python -m tests.contract.chart.golden      what `make charts` runs
"""

import sys
from pathlib import Path
from typing import Final

from tests.support.render_chart import render, values_of

#: Files of values that are kept rendered.
GOLDEN: Final = ("evaluation", "production")


def golden_file(name: str) -> Path:
    """Gives the file that keeps what some values become."""
    return Path(__file__).with_name("golden") / f"{name}.yaml"


def main() -> None:
    """Writes what has changed."""
    for name, rendered in render({name: {"values": values_of(name)} for name in GOLDEN}).items():
        if rendered.error:
            sys.exit(f"{name}: {rendered.error}")
        file = golden_file(name)
        if not file.exists() or file.read_text(encoding="utf-8") != rendered.text:
            file.write_text(rendered.text, encoding="utf-8")
            sys.stdout.write(f"wrote: {file.name}\n")


if __name__ == "__main__":
    main()
