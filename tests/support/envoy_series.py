"""What dashboards ask Envoy itself for, held against a real one by `tests/integration/edge/test_east_west.py`."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

BOARD: Final = Path(__file__).parents[2] / "helm" / "comitia" / "files" / "dashboards" / "between-services.json"
#: Whoever scrapes says whose figures they are; Envoy does not.
SCRAPED: Final = {"service": "east-west"}
_LABEL: Final = re.compile(r'(\w+)=~?"([^"]*)"')
_OF_CLUSTERS: Final = frozenset({"service", "envoy_cluster_name"})
_OF_CALLERS: Final = frozenset({"service", "envoy_http_conn_manager_prefix"})
_CLUSTER: Final = (
    *("upstream_rq_total", "upstream_rq_retry", "upstream_rq_retry_success", "upstream_rq_retry_limit_exceeded"),
    *("upstream_rq_retry_overflow", "upstream_rq_pending_overflow", "upstream_cx_connect_fail"),
    *("upstream_cx_destroy_remote_with_active_rq", "membership_healthy", "outlier_detection_ejections_active"),
    *("outlier_detection_ejections_enforced_total", "outlier_detection_ejections_overflow"),
    *(f"circuit_breakers_default_{bound}_open" for bound in ("rq", "rq_pending", "rq_retry", "cx")),
)
_CALLERS: Final = ("downstream_cx_active", "downstream_rq_active", "rbac_denied", "no_route")
#: Series with their labels, as `metrics_page.series` gives our own.
ENVOY_SERIES: Final[Mapping[str, frozenset[str]]] = {
    **{f"envoy_cluster_{name}": _OF_CLUSTERS for name in _CLUSTER},
    "envoy_cluster_upstream_rq_time_bucket": _OF_CLUSTERS | {"le"},
    **{f"envoy_http_{name}": _OF_CALLERS for name in _CALLERS},
}


def shown(page: str) -> list[tuple[str, Mapping[str, str]]]:
    """Reads the series of a page of Envoy's, as they are once they were scraped."""
    lines = re.findall(r"^(\w+){(.*)} ", page, re.MULTILINE)
    return [(name, {**dict(_LABEL.findall(said)), **SCRAPED}) for name, said in lines]


def selectors() -> Iterator[tuple[str, Mapping[str, str]]]:
    """Gives what the board asks for: a name, and an expression that each label has to match."""
    for panel in json.loads(BOARD.read_text())["panels"]:
        for target in panel["targets"]:
            for name, said in re.findall(r"(envoy_\w+){([^}]*)}", target["expr"]):
                yield name, dict(_LABEL.findall(said))


def matches(selector: tuple[str, Mapping[str, str]], one: tuple[str, Mapping[str, str]]) -> bool:
    """Tells whether a series is one that a selector asks for."""
    name, said = selector
    return name == one[0] and all(re.fullmatch(wanted, one[1].get(label, "")) for label, wanted in said.items())
