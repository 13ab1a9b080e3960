"""Bundles as people write them, and all that can be wrong with them."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.meshkit.core.errors import Invalid
from services.policy.domain.errors import BundleEmpty, BundleFaulty, RegexRefused
from services.policy.rules.parse import parse_bundle
from services.policy.rules.shipped import load_shipped
from services.policy.rules.spec import RegexRule
from tests.support.policy import rules

GOOD = """
name: mine
version: 1.0.0
rules:
  - name: no_pii
    type: regex
    severity: severe
    pattern: "(\\\\b\\\\d{3}-\\\\d{2}-\\\\d{4}\\\\b)"
"""


def faults_of(source: str) -> list[str]:
    """Gives every fault of a source that must have some."""
    with pytest.raises(BundleFaulty) as caught:
        parse_bundle(source)
    count = int(caught.value.metadata["faults"])
    return [caught.value.metadata[f"fault_{number}"] for number in range(1, min(count, 12) + 1)]


def test_the_seeds_own_example_of_a_regex_rule_is_read() -> None:
    parsed = parse_bundle(GOOD)
    (rule,) = parsed.rules
    assert isinstance(rule, RegexRule)
    assert (parsed.name, parsed.version, rule.expressions) == ("mine", "1.0.0", (r"(\b\d{3}-\d{2}-\d{4}\b)",))
    assert rule.effective_action.name == "BLOCK"
    assert rule.stages == ["before", "during", "after"]


def test_json_is_read_like_yaml_and_has_the_same_digest() -> None:
    written = {
        "rules": [{"type": "regex", "name": "no_pii", "pattern": r"(\b\d{3}-\d{2}-\d{4}\b)", "severity": "severe"}]
    }
    for text in (json.dumps(written), json.dumps(written, indent=2), json.dumps(written, indent="\t")):
        assert parse_bundle(text).digest == parse_bundle(GOOD).digest


def test_the_digest_is_of_the_rules_alone() -> None:
    other_name = parse_bundle(GOOD.replace("mine", "yours").replace("1.0.0", "2.0.0"))
    assert other_name.digest == parse_bundle(GOOD).digest
    assert parse_bundle(GOOD.replace("severe", "major")).digest != parse_bundle(GOOD).digest
    both = rules("name: a, type: keyword, keywords: [x]", "name: b, type: keyword, keywords: [y]")
    swapped = rules("name: b, type: keyword, keywords: [y]", "name: a, type: keyword, keywords: [x]")
    assert parse_bundle(both).digest != parse_bundle(swapped).digest


def test_the_shipped_bundle_is_sound() -> None:
    shipped = load_shipped().default
    assert shipped.bundle.reference == "ground@1.0.0"
    assert shipped.bundle.rule_count >= 8


@pytest.mark.parametrize("source", ["", "   \n", "# only a comment", "rules:", "rules: []", "{}", "null", "name: a"])
def test_a_bundle_without_rules_is_empty(source: str) -> None:
    with pytest.raises(BundleEmpty):
        parse_bundle(source)


def test_all_faults_are_named_at_once_with_line_and_rule() -> None:
    source = """
name: a b
version: 1.0.0
colour: blue
rules:
  - name: first
    type: regex
    pattern: 'a(?!b)'
  - name: second
    type: keyword
    severity: terrible
  - name: first
    type: llm_classifier
  - name: third
    type: numerical_threshold
    action: redact
    params: {measure: latency_ms, operator: '~', value: fast}
  - just text
  - name: fourth
    type: regex
    pattern: x
    patterns: [y, '(']
"""
    named = faults_of(source)
    assert [fault.partition(":")[0] for fault in named] == [
        "source.name (line 2)",
        "source.colour (line 4)",
        "source.rules[0].pattern (line 8, rule first)",
        "source.rules[1].keywords (line 9, rule second)",
        "source.rules[1].severity (line 11, rule second)",
        "source.rules[2].name (line 12, rule first)",
        "source.rules[2].type (line 13, rule first)",
        "source.rules[3].params.operator (line 17, rule third)",
        "source.rules[3].params.value (line 17, rule third)",
        "source.rules[4] (line 18)",
        "source.rules[5] (line 19, rule fourth)",
    ]
    assert "invalid perl operator: (?!" in named[2]
    assert "use one of keyword, regex, resource, numerical_threshold" in named[6]


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("a(?=b)", "invalid perl operator"),
        ("(a)\\\\1", "invalid escape sequence"),
        ("((a{100}){100}){100}", "repetition"),
        ("\\\\pL{1000}", "too large"),
        ("(", "missing )"),
        ("[b-a]", "range"),
        ("(?<n>a", "missing"),
    ],
)
def test_a_pattern_that_re2_refuses_is_refused_with_rule_and_reason(pattern: str, why: str) -> None:
    with pytest.raises(RegexRefused) as caught:
        parse_bundle(rules("name: ok, type: keyword, keywords: [x]", f'name: bad, type: regex, pattern: "{pattern}"'))
    assert (caught.value.reason, caught.value.field) == ("REGEX_REFUSED", "source.rules[1].pattern")
    assert caught.value.metadata["rule"] == "bad"
    assert why in caught.value.message


def test_one_of_several_patterns_is_named_by_its_place() -> None:
    with pytest.raises(RegexRefused) as caught:
        parse_bundle(rules("name: bad, type: regex, patterns: [x, '(', y]"))
    assert caught.value.field == "source.rules[0].patterns[1]"


def test_all_programs_together_are_bounded() -> None:
    large = [f"name: r{number}, type: regex, pattern: '[a-z]{{1000}}x'" for number in range(200)]
    assert any("together are too large" in fault for fault in faults_of(rules(*large)))


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("rules: [", "neither YAML nor JSON"),
        ("rules: [}", "neither YAML nor JSON"),
        ("\trules: 1", "neither YAML nor JSON"),
        ("a: &x 1\nrules: *x", "anchors"),
        ("a: 1\nrules: *x", "aliases"),
        ("rules: 1\nrules: 2", "comes twice"),
        ("rules: !!python/object/apply:os.system ['true']", "tag"),
        ("rules:\n- !!python/name:os.system x", "tag"),
        ("--- \nrules: [a]\n---\nrules: [b]", "several documents"),
        ("[" * 100 + "]" * 100, "nested deeper"),
        ("[" * 20_000, "nested deeper"),
        ("rules: [" + "1," * 30_000 + "]", "values"),
        ("rules: [" + "x," * 300 + "]", "at most 200"),
        ("? [a, b]\n: c", "no text"),
        ("rules: \x01", "characters that YAML does not allow"),
        ("rules: {a: b}", "must be a list"),
        ("- a", "must be a mapping"),
        ("just words", "must be a mapping"),
        ("x" * 300_000, "262144"),
        ("rules: [{name: no, type: keyword, keywords: [1]}]", "put it in quotes"),
        ("version: 1.0\nrules: [{name: a, type: keyword, keywords: [b]}]", "put it in quotes"),
        ("rules: [{name: a, type: keyword, keywords: []}]", "at least 1"),
        ("rules: [{name: a, type: keyword, keywords: [' ']}]", "must match"),
        ("rules: [{name: a, type: regex}]", "either `pattern` or `patterns`"),
        ("rules: [{name: a, type: resource, params: {}}]", "at least 1"),
        ("rules: [{name: a, type: resource, params: {x: .inf}}]", "number"),
        ("rules: [{name: a, type: resource, action: redact, params: {x: 1}}]", "use block or warn"),
        ("rules: [{name: a, type: keyword, keywords: [b], stages: []}]", "at least 1"),
        ("rules: [{name: a, type: keyword, keywords: [b], stages: [later]}]", "'before'"),
        ("rules: [{name: 'a b', type: keyword, keywords: [b]}]", "must match"),
        ("rules: [{name: a, type: [keyword], keywords: [b]}]", "no type of rule"),
    ],
)
def test_bad_sources_are_refused_with_a_sentence(source: str, why: str) -> None:
    began = time.process_time()
    named = faults_of(source)
    assert any(why in fault for fault in named), named
    assert time.process_time() - began < 2.0


def test_a_billion_laughs_are_not_laughed() -> None:
    levels = "\n".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 10))
    assert any("anchors" in fault for fault in faults_of(f"l0: &l0 ha\n{levels}"))


def test_a_fault_never_makes_the_error_large() -> None:
    many = rules(*(f"name: r{number}, type: regex, pattern: '('" for number in range(200)))
    with pytest.raises(RegexRefused) as caught:
        parse_bundle(many)
    assert caught.value.metadata["faults"] == "200"
    assert sum(len(value) for value in caught.value.metadata.values()) < 8_000


@given(st.text(max_size=200))
def test_no_text_breaks_the_parser(text: str) -> None:
    for source in (text, f"rules: {text}", f"rules:\n- name: a\n  type: regex\n  pattern: {text}"):
        try:
            parse_bundle(source)
        except Invalid:
            continue


@given(st.text(min_size=1, max_size=60))
def test_no_pattern_breaks_the_parser(pattern: str) -> None:
    try:
        parse_bundle(json.dumps({"rules": [{"name": "a", "type": "regex", "pattern": pattern}]}))
    except Invalid:
        return
