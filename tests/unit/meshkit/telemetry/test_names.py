"""Every instrument is documented where it is named: its labels, and nothing that is not there."""

import re
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase

from services.meshkit.telemetry import metrics, names

#: What a label may be called. No id is ever a label; whoever adds one here has thought of how many values it has.
LABELS = frozenset(
    "cache code converged fate kind method mode model outcome part program provider queue reason rule service severity "
    "state status step token_class tool why work".split()
)
_NAMED = re.compile(r'((?:^#: .*\n)+)^\w+: Final = "(comitia_\w+)"', re.MULTILINE)


def documented() -> dict[str, str]:
    """Gives the comments of the names, by name."""
    return {name: comment.replace("\n#:", " ") for comment, name in _NAMED.findall(Path(names.__file__).read_text())}


def instruments() -> dict[str, MetricWrapperBase]:
    return {
        # A counter keeps the end of its name to itself.
        f"{one._name}_total" if one._type == "counter" else one._name: one
        for one in vars(metrics).values()
        if isinstance(one, MetricWrapperBase)
    }


def test_every_name_has_one_instrument_and_every_instrument_a_name() -> None:
    assert instruments().keys() == documented().keys()


def test_the_labels_of_an_instrument_are_those_that_its_comment_names() -> None:
    for name, one in instruments().items():
        said = re.search(r"Labels: ([\w, ]+)\.", documented()[name])
        assert set(one._labelnames) == set(said[1].split(", ") if said else ()), name
        assert set(one._labelnames) <= LABELS, name
