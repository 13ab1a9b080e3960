"""The chart as it was last looked at, as a file beside this one.

python -m tests.contract.chart.golden      what `make charts` runs
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import yaml

from tests.support.render_chart import Rendered, render, values_of

#: Values that are kept rendered, and where.
VALUES: Final = "production"
FILE: Final = Path(__file__).with_name("golden") / f"{VALUES}.yaml"
#: Templates that are looked at, with the parts in them that are; empty: all. Other services are like inference, which
#: test_agreement.py holds against each of them.
SHOWN: Final[Mapping[str, tuple[str, ...]]] = {
    "autoscaling": (),
    "certificates": ("authority", "edge", "inference"),
    "edge": (),
    "keys": (),
    "migrate": (),
    "network-policies": ("inference",),
    "services": ("gateway", "inference", "orchestrator"),
}


def golden_text(rendered: Rendered) -> str:
    """Gives what is looked at of a chart, as one text."""
    return "---\n".join(_shown(rendered))


def _shown(rendered: Rendered) -> Iterator[str]:
    for name, text in sorted(rendered.files.items()):
        template = Path(name).stem
        if template not in SHOWN or Path(name).parent.name != "templates":
            continue
        for one in text.split("\n---"):
            found = yaml.load(one, yaml.CSafeLoader)
            parts = SHOWN[template]
            if found and (not parts or found["metadata"]["labels"]["app.kubernetes.io/component"] in parts):
                yield f"# {template}.yaml\n{one.removeprefix('---').strip()}\n"


def main() -> None:
    """Writes what has changed."""
    rendered = render({VALUES: {"values": values_of(VALUES)}})[VALUES]
    if rendered.error:
        sys.exit(f"{VALUES}: {rendered.error}")
    text = golden_text(rendered)
    if not FILE.exists() or FILE.read_text(encoding="utf-8") != text:
        FILE.write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote: {FILE.name}\n")


if __name__ == "__main__":
    main()
