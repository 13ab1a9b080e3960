"""Values are held against schemas within a bound on the time that takes."""

import pytest

from services.meshkit.documents.schema import TOO_MUCH, SchemaUnusable, compile_schema

_NUMBERS = [{"const": number} for number in range(1_500)]


def test_a_value_that_is_too_large_for_its_schema_is_refused_unchecked() -> None:
    schema = compile_schema({"type": "array", "items": {"anyOf": _NUMBERS}}, object_only=False)

    assert schema.problem([7] * 100) is None
    assert schema.problem([7] * 100_000) == ("", TOO_MUCH)


def test_a_long_text_counts_by_its_length() -> None:
    schema = compile_schema({"allOf": [{"pattern": f"(a|b)*c{number}"} for number in range(300)]}, object_only=False)

    assert schema.problem("ab" * 100_000) == ("", TOO_MUCH)


@pytest.mark.parametrize("items", [{"$ref": "#/$defs/record"}, {"$ref": "#/$defs/record", "minProperties": 1}])
def test_what_is_inside_counts_by_what_the_schema_says_of_it(items: dict[str, object]) -> None:
    fields = {f"field_{number}": {"type": "string", "description": "one of many"} for number in range(20)}
    record = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    schema = compile_schema({"type": "array", "items": items, "$defs": {"record": record}}, object_only=False)
    few, many = ([dict.fromkeys(fields, "text")] * size for size in (100, 1_000))

    assert schema.problem(few) is None
    # A reference beside other rules is counted by the most that it may cost.
    assert schema.problem(many) == (None if len(items) == 1 else ("", TOO_MUCH))


def test_the_first_wrong_value_is_named() -> None:
    schema = compile_schema(
        {"type": "object", "properties": {"items": {"items": {"type": "integer"}}}}, object_only=True
    )

    assert schema.problem({"items": [1, "two"]}) == (".items[1]", 'it is not of type "integer"')


@pytest.mark.parametrize("value", [2**63, -(2**53), float("inf"), "\ud800"])
def test_a_schema_of_what_json_does_not_carry_is_refused(value: object) -> None:
    with pytest.raises(SchemaUnusable, match="carries exactly"):
        compile_schema({"const": value}, object_only=False)
