"""Whether an answer keeps the form that was asked for."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.domain.output_format import (
    MAX_DEPTH,
    Conformed,
    OutputFormat,
    OutputKind,
    Violation,
    checked_output_format,
    conform,
    fits_strict,
)
from services.meshkit.core.errors import Invalid

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}
NUMBER = OutputFormat(kind=OutputKind.JSON_SCHEMA, name="number", schema=SCHEMA)
OBJECT = OutputFormat(kind=OutputKind.JSON_OBJECT)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('{"n": 3}', '{"n": 3}'),
        (' \n{"n": 3}\n', '{"n": 3}'),
        ('Sure! Here it is:\n```json\n{"n": 3}\n```\nAnything else?', '{"n": 3}'),
    ],
)
def test_the_json_of_an_answer_is_kept_without_what_stands_around_it(text: str, kept: str) -> None:
    assert conform(text, NUMBER) == Conformed(kept)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "the whole answer"),
        ("three", "the whole answer"),
        ('{"n": 3', "the whole answer"),
        ('{"n": NaN}', "the whole answer"),
        ("[" * 100_000, "the whole answer"),
        ('{"n": 0}', ".n"),
        ('{"n": "secret"}', ".n"),
        ("{}", ".n"),
    ],
)
def test_an_answer_in_another_form_is_told_where_and_nothing_of_it_is_repeated(text: str, place: str) -> None:
    violation = conform(text, NUMBER)
    assert isinstance(violation, Violation)
    assert violation.place == place
    assert "secret" not in violation.rule


def test_any_object_is_one_and_a_list_is_none() -> None:
    assert conform('{"a": [1]}', OBJECT) == Conformed('{"a": [1]}')
    assert isinstance(conform("3", OBJECT), Violation)


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none()), st.sampled_from(["", "Well: ", "```json\n"]))
def test_every_object_is_found_again_whatever_it_holds(value: dict[str, object], before: str) -> None:
    kept = conform(before + json.dumps(value), OBJECT)
    assert isinstance(kept, Conformed)
    assert json.loads(kept.text) == value


def nested(levels: int) -> dict[str, object]:
    schema: dict[str, object] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def test_a_schema_that_is_nested_too_deeply_is_refused() -> None:
    checked_output_format(OutputFormat(kind=OutputKind.JSON_SCHEMA, name="deep", schema=nested(MAX_DEPTH - 1)))
    with pytest.raises(Invalid):
        checked_output_format(OutputFormat(kind=OutputKind.JSON_SCHEMA, name="deep", schema=nested(MAX_DEPTH)))


@pytest.mark.parametrize(
    ("schema", "fits"),
    [
        (SCHEMA, False),
        ({"type": "object", "properties": {}, "additionalProperties": False}, True),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}, False),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "array", "items": SCHEMA}},
                "required": ["a"],
                "additionalProperties": False,
            },
            False,
        ),
    ],
)
def test_a_provider_keeps_strictly_to_closed_objects_only(schema: dict[str, object], fits: bool) -> None:
    assert fits_strict(schema) is fits
