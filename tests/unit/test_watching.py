"""Dashboards, rules and runbooks speak of metrics and pages that exist."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from tests.support.envoy_series import ENVOY_SERIES
from tests.support.metrics_page import series

CHECKOUT = Path(__file__).parents[2]
FILES = CHECKOUT / "helm" / "comitia" / "files"
RUNBOOKS = CHECKOUT / "docs" / "runbooks"
DASHBOARDS = sorted((FILES / "dashboards").glob("*.json"))
RULES = sorted((FILES / "rules").glob("*.yaml"))
#: What Prometheus adds to all series, and what its client shows of every process.
ADDED = frozenset({"job", "instance"})
OF_PROCESSES = {"process_resident_memory_bytes": ADDED, "process_cpu_seconds_total": ADDED, "ALERTS": ADDED}


@cache
def rules() -> list[dict[str, Any]]:
    return [rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def panels(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["panels"]


@cache
def known() -> Mapping[str, frozenset[str]]:
    recorded = {rule["record"]: frozenset[str]() for rule in rules() if "record" in rule}
    shown = {**series(), **ENVOY_SERIES}
    return {**{name: labels | ADDED for name, labels in shown.items()}, **OF_PROCESSES, **recorded}


def problems(query: str, known: Mapping[str, frozenset[str]]) -> Iterator[str]:
    """Tells what is wrong with a query: it cannot be read, or speaks of a metric or label that is not there."""
    try:
        read = promql_parser.parse(query.replace("$__rate_interval", "5m"))
    except ValueError as error:
        yield f"{query}: {error}"
        return
    labels = set[str]()
    for name in re.findall(r"\b(?:comitia|envoy|process|go|python)[\w:]*", re.sub(r'"[^"]*"', "", read.prettify())):
        if name in known:
            labels |= known[name]
        elif not any(name in those for those in known.values()):
            yield f"{query}: no metric {name}"
    plain = read.prettify()
    spoken = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", plain)
    for group in re.findall(r"\b(?:by|on|ignoring|without)\s*\(([^)]*)\)", plain):
        spoken += [one.strip() for one in group.split(",") if one.strip()]
    yield from (f"{query}: no label {label}" for label in spoken if label not in labels)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_each_panel_asks_for_what_exists_and_shows_labels_that_it_has(path: Path) -> None:
    found: list[str] = []
    for panel in panels(path):
        for target in panel["targets"]:
            found += problems(target["expr"], known())
            kept = re.search(r"\bby \(([^)]*)\)", target["expr"])
            shown = re.findall(r"{{(\w+)}}", target["legendFormat"])
            found += [f"{panel['title']}: {label} is not kept" for label in shown if kept and label not in kept[1]]
    assert found == []


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_lie_beside_each_other(path: Path) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels(path):
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_rules_ask_for_what_exists() -> None:
    assert [problem for rule in rules() for problem in problems(rule["expr"], known())] == []


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    named = {rule["annotations"]["runbook_url"] for rule in rules() if "alert" in rule}
    assert named == {f"docs/runbooks/{path.name}" for path in RUNBOOKS.glob("*.md")}


def test_each_alert_is_fired_by_a_test() -> None:
    fired = "".join(path.read_text() for path in (CHECKOUT / "tests" / "rules").glob("*.yaml"))
    assert [rule["alert"] for rule in rules() if "alert" in rule and rule["alert"] not in fired] == []


def test_a_query_that_is_wrong_is_found() -> None:
    wrong = 'sum by (nothing) (rate(comitia_no_such_total{code="OK"}[5m]))'
    assert len(list(problems(wrong, known()))) == 3
    assert len(list(problems("sum(", known()))) == 1
