"""Labels form a lattice, and content survives its trip over the wire."""

import math

import pytest
from google.protobuf import struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from comitia.common.v1 import content_pb2
from services.meshkit.content import (
    Confidentiality,
    Integrity,
    Label,
    Message,
    MessageRole,
    Part,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    Usage,
    join,
)
from services.meshkit.content import proto as convert
from services.meshkit.content.usage import USAGE_CLASSES
from services.meshkit.core.errors import Invalid

LABELS = st.builds(
    Label,
    integrity=st.sampled_from(Integrity),
    confidentiality=st.sampled_from(Confidentiality),
    sources=st.frozensets(st.text(min_size=1, max_size=3), max_size=40),
)
CONTENTS = st.one_of(
    st.builds(TextPart, st.text(max_size=20)),
    st.builds(
        ToolCallPart,
        tool_call_id=st.text(max_size=5),
        name=st.text(max_size=5),
        arguments=st.dictionaries(
            st.text(max_size=3), st.one_of(st.integers(-(2**50), 2**50), st.booleans(), st.text())
        ),
    ),
    st.builds(ToolResultPart, tool_call_id=st.text(max_size=5), name=st.text(max_size=5), text=st.text(max_size=9)),
)


@given(LABELS, LABELS, LABELS)
def test_join_is_a_least_upper_bound(one: Label, two: Label, three: Label) -> None:
    assert one.joined(two) == two.joined(one)
    assert one.joined(two).joined(three) == one.joined(two.joined(three))
    assert one.joined(one) == one
    assert join([one, two]).covers(one)
    assert join([one, two]).covers(two)


@given(LABELS)
def test_joining_nothing_changes_nothing(label: Label) -> None:
    assert join([label]) == label
    assert join([]).joined(label) == label


@given(CONTENTS, LABELS)
def test_a_part_survives_its_trip(content: TextPart, label: Label) -> None:
    part = Part(content, label)
    assert convert.part_from_proto(convert.part_to_proto(part)) == part


def test_an_unlabelled_part_is_taken_as_untrusted_and_the_tenants() -> None:
    part = convert.part_from_proto(content_pb2.Part(text=content_pb2.TextPart(text="x")))
    assert part.label == Label(integrity=Integrity.UNTRUSTED, confidentiality=Confidentiality.TENANT)


def test_an_empty_part_and_a_message_without_a_role_are_refused_with_their_place() -> None:
    with pytest.raises(Invalid, match=r"parts\[1\]"):
        convert.parts_from_proto([content_pb2.Part(text=content_pb2.TextPart(text="x")), content_pb2.Part()])
    with pytest.raises(Invalid, match=r"messages\[0\]\.role"):
        convert.message_from_proto(content_pb2.Message(), field="messages[0]")


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_have_are_refused(number: float) -> None:
    with pytest.raises(Invalid, match="finite"):
        convert.struct_to_dict(struct_pb2.Struct(fields={"x": struct_pb2.Value(number_value=number)}))


def test_a_value_that_a_message_cannot_hold_is_refused() -> None:
    deep: dict[str, object] = {}
    for _ in range(60):
        deep = {"a": deep}
    with_lists: dict[str, object] = {}
    for _ in range(40):
        with_lists = {"a": [with_lists]}
    values: list[dict[str, object]] = [deep, with_lists, {"a": 10**400}, {"a": "\ud800"}, {"a": object()}]
    for value in values:
        with pytest.raises(Invalid, match=r"^arguments"):
            convert.struct_from_dict(value)
    with pytest.raises(Invalid, match=r"^input_schema"):
        convert.struct_from_dict(deep, field="input_schema")


def test_a_message_and_usage_survive_their_trip() -> None:
    message = Message(role=MessageRole.USER, parts=(Part(TextPart("hello"), Label()),), name="Anna")
    assert convert.message_from_proto(convert.message_to_proto(message)) == message
    usage = Usage(**{name: number for number, name in enumerate(USAGE_CLASSES)})
    assert convert.usage_from_proto(convert.usage_to_proto(usage)) == usage
    assert (usage + usage).total == 2 * usage.total
