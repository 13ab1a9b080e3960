"""`docs/metrics.md`: every metric with its labels, as a page for those who watch. `make gen` writes it.

python -m tests.support.metrics_page [--check]
"""

import re
import sys
from pathlib import Path
from typing import Final

from prometheus_client.metrics import MetricWrapperBase

from services.meshkit.telemetry import metrics, names

PAGE: Final = Path(__file__).parents[2] / "docs" / "metrics.md"
_NAMED: Final = re.compile(r'((?:^#: .*\n)+)^\w+: Final = "(comitia_\w+)"', re.MULTILINE)
_LABELS: Final = re.compile(r" ?Labels: [\w, ]+\.")
#: What the design that Comitia grew from calls them, with its labels, and what became of those.
_SEED_NAMES: Final = (
    ("inference_latency_ms", "model, provider, agent", names.INFERENCE_LATENCY_SECONDS),
    ("tokens_consumed_total", "model, provider, tenant", names.TOKENS_CONSUMED_TOTAL),
    ("violations_total", "severity, rule_name", names.VIOLATIONS_TOTAL),
    ("cost_usd_total", "provider, model, tenant", names.COST_NANO_USD_TOTAL),
    ("session_rounds", "mode, converged", names.SESSION_ROUNDS),
    ("tool_invocations_total", "tool_name, status", names.TOOL_INVOCATIONS_TOTAL),
    ("dag_node_duration_ms", "agent, node_type", names.STEP_DURATION_SECONDS),
)
_HEAD: Final = """# Metrics

Made by `make gen` from `services/meshkit/telemetry`. Each service shows its own at `/metrics` of
`COMITIA_<SERVICE>_METRICS_LISTEN`; `comitia up` listens on a port of its own for each. Units are base units and stand
in the name; a histogram gives `_bucket`, `_sum` and `_count`. Labels are few and bounded: what users choose, such as
the names of models, tools and rules, has at most 200 values on a page, the rest is `other`. No id and no tenant is ever
a label: what one tenant spent is asked of cost ([budgets](budgets.md)), what one session did is seen in its
[traces](telemetry.md).

Rate, errors and duration of every RPC and every request at a model door come from one histogram,
`comitia_rpc_server_duration_seconds`: its `_count` by `code` are calls and errors. Depths of queues, sizes of groups
that were committed or sent together, and what caches hold share one metric each, told apart by a label.
"""
_ORIGINAL: Final = """## Names of the original design

Milliseconds became seconds, dollars billionths of them. Agents and tenants are no labels, for they have no bound.

| there | its labels | here |
|---|---|---|
"""


def instruments() -> dict[str, MetricWrapperBase]:
    """Gives the instruments of the process, by the names that stand in `names`."""
    return {
        # A counter keeps the end of its name to itself.
        f"{one._name}_total" if one._type == "counter" else one._name: one  # pyright: ignore[reportPrivateUsage]
        for one in vars(metrics).values()
        if isinstance(one, MetricWrapperBase)
    }


def documented() -> dict[str, str]:
    """Gives the comments of the names, by name."""
    return {name: comment.replace("\n#:", " ") for comment, name in _NAMED.findall(Path(names.__file__).read_text())}


def labels_of(instrument: MetricWrapperBase) -> tuple[str, ...]:
    """Gives the names of its labels."""
    return tuple(instrument._labelnames)  # pyright: ignore[reportPrivateUsage]


def series() -> dict[str, frozenset[str]]:
    """Gives every series that a page may show, with its labels: those of histograms under all their names."""
    found: dict[str, frozenset[str]] = {}
    for name, one in instruments().items():
        labels = frozenset(labels_of(one))
        if one._type == "histogram":  # pyright: ignore[reportPrivateUsage]
            found |= {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
        else:
            found[name] = labels
    return found


def render() -> str:
    """Writes the page."""
    said = documented()
    rows = ["| metric | kind | labels | what it tells |", "|---|---|---|---|"]
    for name, one in sorted(instruments().items()):
        labels = ", ".join(f"`{label}`" for label in labels_of(one))
        text = " ".join(_LABELS.sub("", said[name]).replace("#:", "").split()).replace("|", "\\|")
        rows.append(f"| `{name}` | {one._type} | {labels} | {text} |")  # pyright: ignore[reportPrivateUsage]
    original = [f"| `{there}` | {labels} | `{here}` |" for there, labels, here in _SEED_NAMES]
    return "\n".join((_HEAD, *rows, "", _ORIGINAL.rstrip("\n"), *original, ""))


def main() -> int:
    """Writes the page, or says whether it is current."""
    text = render()
    if "--check" in sys.argv[1:]:
        if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
            return 0
        sys.stderr.write("docs/metrics.md is not what the code says; run `make gen`\n")
        return 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
