"""Every instrument is documented where it is named: its labels, and nothing that is not there."""

import re
from pathlib import Path

from services.meshkit.telemetry import metrics
from tests.support.metrics_page import PAGE, documented, instruments, labels_of, render

#: What a label may be called. No id is ever a label; whoever adds one here has thought of how many values it has.
LABELS = frozenset(
    "cache cause code converged fate kind method mode model outcome part program provider queue reason rule service "
    "severity state status token_class tool why work".split()
)
SERVICES = Path(__file__).parents[4] / "services"


def test_every_name_has_one_instrument_and_every_instrument_a_name() -> None:
    assert instruments().keys() == documented().keys()


def test_the_labels_of_an_instrument_are_those_that_its_comment_names() -> None:
    for name, one in instruments().items():
        said = re.search(r"Labels: ([\w, ]+)\.", documented()[name])
        assert set(labels_of(one)) == set(said[1].split(", ") if said else ()), name
        assert set(labels_of(one)) <= LABELS, name


def test_every_instrument_is_used() -> None:
    code = "".join(path.read_text() for path in SERVICES.rglob("*.py") if path != Path(metrics.__file__))
    assert [name for name, one in vars(metrics).items() if one in instruments().values() and name not in code] == []


def test_the_page_of_metrics_says_what_the_code_says() -> None:
    assert PAGE.read_text() == render(), "run `make gen`"
