"""What rules find, what they do about it, and what they say."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.meshkit.content import (
    BlobPart,
    Confidentiality,
    DocumentPart,
    ImagePart,
    Integrity,
    Label,
    Part,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from services.policy.domain.subject import Operation, Stage
from services.policy.domain.verdict import Action, Severity
from services.policy.rules.compiled import CompiledBundle
from services.policy.rules.engine import ExpressionSet
from services.policy.rules.parse import parse_bundle
from services.policy.rules.shipped import load_shipped
from tests.support.policy import CANARY, a_subject, judged, rules

LABEL = Label(
    integrity=Integrity.TRUSTED, confidentiality=Confidentiality.RESTRICTED, sources=frozenset({"agent:Athena"})
)


def matches(rule: str, text: str) -> bool:
    return bool(judged(rules(f"name: r, {rule}"), a_subject(text)).matched)


@pytest.mark.parametrize(
    ("keyword", "text", "found"),
    [
        ("secret", "a SECRET b", True),
        ("secret", "secrets", False),
        ("secret", "(secret)", True),
        ("secret", "secret", True),
        ("secret", "top_secret", False),
        ("straße", "in der STRASSE", False),  # simple folding: one letter stays one letter
        ("Ελλάδα", "η ΕΛΛΆΔΑ.", True),
        ("кот", "который", False),
        ("кот", "Кот!", True),
        ("é", "café", False),
        ("c++", "in c++ and", True),
        ("c++", "c++x", True),
        ("++", "a++b", True),
        ("top secret", "TOP SECRET", True),
        ("top secret", "top  secret", False),
        ("a.b", "axb", False),
        ("日本", "日本", True),
    ],
)
def test_a_keyword_is_found_as_a_word_whatever_its_case(keyword: str, text: str, found: bool) -> None:
    assert matches(f"type: keyword, keywords: ['{keyword}']", text) is found


def test_a_shorter_keyword_is_found_where_a_longer_one_is_not() -> None:
    assert matches("type: keyword, keywords: [foo, foo-b]", "foo-bar")
    assert matches("type: keyword, keywords: [a a]", "xa a a")


def test_keywords_may_be_found_within_words_and_by_their_case() -> None:
    assert matches("type: keyword, keywords: [secret], params: {match: substring}", "topSECRETs")
    assert not matches("type: keyword, keywords: [secret], params: {case_sensitive: true}", "SECRET")
    assert matches("type: keyword, keywords: [Secret], params: {case_sensitive: true}", "a Secret b")


def test_a_regex_matches_only_what_is_not_empty() -> None:
    assert matches("type: regex, pattern: '[0-9]*'", "a1")
    assert not matches("type: regex, pattern: '[0-9]*'", "abc")
    assert not matches("type: regex, pattern: '\\b'", "abc")
    assert matches("type: regex, patterns: ['(?i)ab', cd]", "xAB")
    assert not matches("type: regex, patterns: ['(?i)ab', cd]", "CD")


def test_resource_limits_and_thresholds_compare_measures() -> None:
    limits = "type: resource, params: {output_tokens: 10, cost: 0.5}"
    threshold = "type: numerical_threshold, params: {measure: latency_ms, operator: '>=', value: 100}"
    source = rules(f"name: limits, {limits}", f"name: slow, {threshold}")
    for measures, matched in (
        ({}, []),
        ({"output_tokens": 10.0, "latency_ms": 99.9}, []),
        ({"output_tokens": 10.5}, ["output_tokens is 10.5, at most 10 is allowed"]),
        ({"latency_ms": 100.0}, ["latency_ms is 100, which is >= 100"]),
        ({"cost": 1.0, "output_tokens": 11.0}, None),
    ):
        found = judged(source, a_subject(measures=measures)).matched
        if matched is None:
            assert found[0].rationale.count("at most") == 2
        else:
            assert [result.rationale for result in found] == matched


def test_policy_counts_bytes_itself_whatever_the_caller_says() -> None:
    source = rules("name: size, type: resource, params: {prompt_bytes: 5}")
    assert judged(source, a_subject("éééé", measures={"prompt_bytes": 0.0})).matched
    assert not judged(source, a_subject("abcde", measures={"prompt_bytes": 99.0})).matched
    assert not judged(source, a_subject("abcdefgh", stage=Stage.AFTER)).matched


def test_rules_apply_to_their_stages_operations_and_targets() -> None:
    source = rules(
        "name: a, type: keyword, keywords: [x], stages: [before]",
        "name: b, type: keyword, keywords: [x], operations: [invoke_tool]",
        "name: c, type: keyword, keywords: [x], targets: ['gpt-*', llama]",
    )

    def found(**fields: object) -> list[str]:
        return [result.rule for result in judged(source, replace(a_subject("x"), **fields)).matched]

    assert found() == ["a"]
    assert found(stage=Stage.DURING) == []
    assert found(stage=Stage.AFTER, operation=Operation.INVOKE_TOOL) == ["b"]
    assert found(target="gpt-4") == ["a", "c"]
    assert found(target="llama") == ["a", "c"]
    assert found(target="llama2") == ["a"]
    assert len(judged(source, a_subject("x", operation=Operation.REMEMBER)).results) == 2


def test_severity_decides_where_no_action_is_named() -> None:
    source = rules(
        "name: a, type: keyword, keywords: [x], severity: severe",
        "name: b, type: keyword, keywords: [x]",
        "name: c, type: keyword, keywords: [x], severity: severe, action: warn",
    )
    judgement = judged(source, a_subject("x"))
    assert [result.action for result in judgement.matched] == [Action.BLOCK, Action.WARN, Action.WARN]
    assert [result.severity for result in judgement.results] == [Severity.SEVERE, Severity.MAJOR, Severity.SEVERE]
    assert not judgement.allowed


def test_every_kind_of_part_is_read_and_redacted_in_its_place() -> None:
    parts = tuple(
        Part(content, LABEL)
        for content in (
            TextPart(f"a {CANARY} b"),
            ImagePart(media_type="image/png", data=CANARY.encode()),
            DocumentPart(media_type="application/pdf", data=b"%PDF", title=CANARY),
            DocumentPart(media_type="text/plain; charset=utf-8", data=f"so {CANARY}".encode()),
            DocumentPart(media_type="text/plain", data=b"\xff\xfe"),
            ToolCallPart(tool_call_id="1", name="t", arguments={"a": [{"b": CANARY, "n": 1}], "c": None}),
            ToolResultPart(tool_call_id="1", name="t", text=CANARY, failed=True),
            BlobPart(blob_id="b", media_type="text/plain", size_bytes=1, owner="memory"),
        )
    )
    judgement = judged(rules(f"name: r, type: keyword, action: redact, keywords: ['{CANARY}']"), a_subject(parts=parts))
    assert judgement.allowed
    assert judgement.parts is not None
    assert [part.content for part in judgement.parts] == [
        TextPart("a [redacted:r] b"),
        parts[1].content,
        DocumentPart(media_type="application/pdf", data=b"%PDF", title="[redacted:r]"),
        DocumentPart(media_type="text/plain; charset=utf-8", data=b"so [redacted:r]"),
        parts[4].content,
        ToolCallPart(tool_call_id="1", name="t", arguments={"a": [{"b": "[redacted:r]", "n": 1}], "c": None}),
        ToolResultPart(tool_call_id="1", name="t", text="[redacted:r]", failed=True),
        parts[7].content,
    ]
    assert {part.label for part in judgement.parts} == {LABEL}
    assert judgement.matched[0].rationale == "keyword found 5 times in parts[0], parts[2], parts[3], parts[5], parts[6]"


def test_one_byte_that_is_no_text_hides_nothing_of_a_document() -> None:
    part = Part(DocumentPart(media_type="text/plain", data=b"\xff so " + CANARY.encode()), LABEL)
    judgement = judged(
        rules(f"name: r, type: keyword, action: redact, keywords: ['{CANARY}']"), a_subject(parts=(part,))
    )
    assert judgement.parts is not None
    [left] = judgement.parts
    assert isinstance(left.content, DocumentPart)
    assert CANARY.encode() not in left.content.data


@pytest.mark.parametrize("arguments", [{"n": 4111111111111111}, {"k": {"4111111111111111": 1}}])
def test_arguments_that_cannot_be_redacted_in_part_are_replaced(arguments: dict[str, object]) -> None:
    call = Part(ToolCallPart(tool_call_id="1", name="t", arguments=arguments), LABEL)
    source = rules("name: card, type: regex, action: redact, pattern: '4[0-9]{15}'")
    judgement = judged(source, a_subject(parts=(call,)))
    assert judgement.parts is not None
    content = judgement.parts[0].content
    assert isinstance(content, ToolCallPart)
    assert content.arguments == {"redacted": "[redacted:card]"}


def test_json_escapes_hide_nothing() -> None:
    call = Part(ToolCallPart(tool_call_id="1", name="t", arguments={"a": 'say "now"\nor never'}), LABEL)
    for keyword in ('say "now"', "now"):
        source = rules(f"name: r, type: keyword, keywords: ['{keyword}']")
        assert judged(source, a_subject(parts=(call,))).matched


def test_the_first_rule_marks_where_matches_overlap() -> None:
    source = rules(
        "name: one, type: regex, action: redact, pattern: 'bc'",
        "name: two, type: regex, action: redact, pattern: 'cd|x'",
        "name: three, type: regex, action: warn, pattern: 'a'",
    )
    judgement = judged(source, a_subject("abcde x x xx"))
    assert judgement.parts is not None
    assert judgement.parts[0].content == TextPart("a[redacted:one]e [redacted:two] [redacted:two] [redacted:two]")


def test_what_one_redaction_uncovers_is_redacted_too() -> None:
    source = rules(
        "name: one, type: regex, action: redact, pattern: 'a'",
        "name: two, type: regex, action: redact, pattern: '\\bfoo'",
    )
    judgement = judged(source, a_subject("afoo foo"))
    assert judgement.parts is not None
    assert judgement.parts[0].content == TextPart("[redacted:one][redacted:two] [redacted:two]")


def test_a_rule_that_would_redact_its_own_mark_comes_to_an_end() -> None:
    for pattern in (r"\w+", ".", "redacted", r"[\[\]]", r"(?s).+", r"\C"):
        source = rules(f"name: r, type: regex, action: redact, pattern: '{pattern}'")
        judgement = judged(source, a_subject("é [redacted:r] b"))
        assert judgement.parts is not None
        content = judgement.parts[0].content
        assert isinstance(content, TextPart)
        assert ("é" in content.text) == (pattern in (r"\w+", "redacted", r"[\[\]]"))  # RE2's \w is ASCII


def test_the_ground_bundle_redacts_secrets_and_leaves_prose_alone() -> None:
    compiled = load_shipped().default.compiled

    def rules_of(text: str) -> list[str]:
        return [result.rule for result in compiled.judge(a_subject(text), timer=lambda: 0.0).matched]

    for text, rule in (
        ("sk-ant-" + "a1" * 20, "api_key"),
        ("ck_01jx2abc_" + "b2" * 12, "api_key"),
        ("AKIAIOSFODNN7EXAMPLE", "api_key"),
        ("ghp_" + "a" * 36, "api_key"),
        ("eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJlLWhlcmU", "api_key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1r", "private_key"),
        ("postgresql://app:hunter2@db/x", "password_in_url"),
        ("4111-1111-1111-1111", "payment_card"),
        ("378282246310005", "payment_card"),
        ("078-05-1120", "us_social_security_number"),
        ("STRICTLY CONFIDENTIAL", "confidential_mark"),
    ):
        assert rules_of(f"so: {text} and on") == [rule], text
    for text in (
        "We met on 2024-01-02 at 10:30 and paid 1,234.56 EUR; call +49 30 1234567.",
        "run_01jx2q8k3v9e7w5t4r6y8u0p1a beats http://example.com:8080/path?x=1",
        "sk-learn is not a key, and neither is eyes.eyes.eyes",
        "def f(x): return x ** 2  # 0x1234567890abcdef",
    ):
        assert rules_of(text) == [], text


def test_a_set_that_runs_out_of_memory_fails_nothing_open() -> None:
    class Mute(ExpressionSet):
        def matches(self, text: bytes) -> list[int] | None:
            return None

    source = rules("name: a, type: keyword, keywords: [x]", "name: b, type: regex, pattern: 'y'")
    compiled = CompiledBundle(parse_bundle(source).rules)
    for plan in compiled._plans.values():
        plan._set = Mute([])
    judgement = compiled.judge(a_subject("x"), timer=lambda: 0.0)
    assert [result.action for result in judgement.results] == [Action.WARN, None]


def test_a_bundle_whose_verdict_took_too_long_is_slow_until_it_was_quick_again() -> None:
    compiled = CompiledBundle(parse_bundle(rules("name: a, type: keyword, keywords: [x]")).rules)
    ticking = iter(range(1000))
    compiled.judge(a_subject("y"), timer=lambda: float(next(ticking)))
    assert compiled.slow
    for _ in range(100):
        compiled.judge(a_subject("y"), timer=lambda: 0.0)
    assert not compiled.slow


# --- properties ------------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(["ab", "abc", "bc", "c a", "x", "ß", "straße", "日本", "a.b", "++", "é"])
TEXTS = st.lists(st.sampled_from([*"abc x.+", "ß", "é", "日本", "[redacted:r]", "\n"]), max_size=40).map("".join)
PATTERNS = st.sampled_from(
    ["a+", "[ab]c", "a.*c", r"\bx", "(?i)É", "^a", "c$", "a.c|b", "日", "[^ ]{3}", "a{2,3}b?", r"\pL\PL", "(?s)a.{5}"]
)


def outside_of_marks(text: str, names: set[str]) -> list[tuple[int, int]]:
    """Gives where marks stand."""
    spans: list[tuple[int, int]] = []
    for name in names:
        mark, position = f"[redacted:{name}]".encode(), 0
        while (position := text.encode().find(mark, position)) >= 0:
            spans.append((position, position + len(mark)))
            position += 1
    return spans


@given(text=TEXTS, patterns=st.lists(PATTERNS, min_size=1, max_size=3), words=st.lists(WORDS, max_size=3))
def test_redaction_never_leaves_a_match(text: str, patterns: list[str], words: list[str]) -> None:
    lines = [f'name: p{number}, type: regex, action: redact, pattern: "{p}"' for number, p in enumerate(patterns)]
    lines = [line.replace("\\", "\\\\") for line in lines]
    lines += [f"name: k{number}, type: keyword, action: redact, keywords: ['{w}']" for number, w in enumerate(words)]
    compiled = CompiledBundle(parse_bundle(rules(*lines)).rules)
    judgement = compiled.judge(a_subject(text), timer=lambda: 0.0)
    if judgement.parts is None:
        assert not judgement.matched
        return
    content = judgement.parts[0].content
    assert isinstance(content, TextPart)
    names = {result.rule for result in judgement.results}
    marks = outside_of_marks(content.text, names)
    matched = {result.rule for result in judgement.matched}
    plan = compiled._plans[Stage.BEFORE, Operation.GENERATE]
    for number, rule in enumerate(plan._rules):
        finder = plan._finders[number]
        assert finder is not None
        if rule.name not in matched:
            continue
        for start, end in finder.spans(content.text.encode()):
            assert any(mark_start <= start and end <= mark_end for mark_start, mark_end in marks), (content.text, rule)


@given(text=TEXTS, words=st.lists(WORDS, min_size=1, max_size=4, unique=True))
def test_a_verdict_is_the_same_every_time(text: str, words: list[str]) -> None:
    lines = [f"name: k{number}, type: keyword, action: redact, keywords: ['{w}']" for number, w in enumerate(words)]
    first, second = (judged(rules(*lines), a_subject(text)) for _ in range(2))
    assert first == second
    assert [result.rule for result in first.results] == [f"k{number}" for number in range(len(words))]


@given(
    secret=st.text(alphabet="qwzQWZ0123456789", min_size=6, max_size=12),
    before=st.text(max_size=20),
    kind=st.sampled_from(["regex", "keyword"]),
)
def test_a_rationale_never_holds_what_was_matched(secret: str, before: str, kind: str) -> None:
    what = "type: regex, pattern: '[qwzQWZ0-9]{6,}'" if kind == "regex" else f"type: keyword, keywords: ['{secret}']"
    judgement = judged(rules(f"name: r, action: redact, {what}"), a_subject(f"{before} {secret} after"))
    assert judgement.matched
    assert all(secret.lower() not in result.rationale.lower() for result in judgement.results)
    assert judgement.parts is not None
    content = judgement.parts[0].content
    assert isinstance(content, TextPart)
    assert secret not in content.text.removeprefix(before)
