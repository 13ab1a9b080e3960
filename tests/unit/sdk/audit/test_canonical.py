"""One form for each entry, and it is the one of RFC 8785."""

from collections.abc import Callable

import pytest
import rfc8785
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st

from comitia.common.v1.audit_pb2 import AuditEntry
from comitia_sdk.audit.canonical import NotCanonical, canonical_entry, canonical_json, read_entry
from tests.support.audit_export import an_entry

TEXT = st.text(max_size=20)
NUMBER = st.integers(min_value=-(2**53) + 1, max_value=2**53 - 1)
JSON = st.recursive(
    st.booleans() | st.none() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@st.composite
def entries(draw: Callable[..., object]) -> AuditEntry:
    entry = AuditEntry(
        **{name: draw(TEXT) for name in ("service", "tenant_id", "actor", "peer", "action", "method", "target")},  # pyright: ignore[reportArgumentType]
        **{name: draw(TEXT) for name in ("reason", "request_id", "correlation_id", "source_address")},  # pyright: ignore[reportArgumentType]
        stream=draw(st.integers(min_value=0, max_value=2**31 - 1)),  # pyright: ignore[reportArgumentType]
        position=draw(st.integers(min_value=0, max_value=2**63 - 1)),  # pyright: ignore[reportArgumentType]
        outcome=draw(st.sampled_from((0, 1, 2, 77))),  # pyright: ignore[reportArgumentType]
        request_hash=draw(st.binary(max_size=32)),  # pyright: ignore[reportArgumentType]
        details=draw(st.dictionaries(TEXT, TEXT, max_size=4)),  # pyright: ignore[reportArgumentType]
    )
    if draw(st.booleans()):
        entry.record_time.seconds = draw(st.integers(min_value=-62135596800, max_value=253402300799))  # pyright: ignore[reportAttributeAccessIssue]
        entry.record_time.nanos = draw(st.sampled_from((0, 1, 1_000, 120_000_000, 999_999_999)))  # pyright: ignore[reportAttributeAccessIssue]
    return entry


@given(st.dictionaries(TEXT, JSON, max_size=5))
def test_objects_are_written_as_rfc_8785_asks(value: dict[str, object]) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)  # pyright: ignore[reportArgumentType]


@given(entries())
def test_an_entry_is_rfc_8785_of_its_proto3_json(entry: AuditEntry) -> None:
    assert canonical_entry(entry) == rfc8785.dumps(MessageToDict(entry, preserving_proto_field_name=True))


@given(entries())
def test_an_entry_comes_back_from_its_canonical_form(entry: AuditEntry) -> None:
    assert read_entry(canonical_entry(entry)) == entry


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{", b'{"unknown":"1"}', b'{"stream":"1"}', b'{ "action":"a"}', b'{"position":"01"}', b"\xff"],
)
def test_other_bytes_are_refused(text: bytes) -> None:
    with pytest.raises(NotCanonical):
        read_entry(text)


def test_the_form_of_one_entry() -> None:
    entry = an_entry(0, request_hash=bytes(2), details={"limit": "5"})
    assert canonical_entry(entry) == (
        b'{"action":"budgets.limit","actor":"key_01jx0000000000000000000000","details":{"limit":"5"},'
        b'"outcome":"AUDIT_OUTCOME_SUCCEEDED","position":"1","record_time":"2026-03-01T12:00:00Z","request_hash":"AAA=",'
        b'"service":"cost","stream":1,"target":"budget_0","tenant_id":"tenant_01jx0000000000000000000000"}'
    )
