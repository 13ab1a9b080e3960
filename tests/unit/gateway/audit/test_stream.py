"""A stream is followed without losing an entry; a gap or a stream that went back is noticed at its place."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comitia_sdk.audit import merkle
from services.gateway.domain.audit_entry import ChainEnd, FedEntry
from services.gateway.domain.audit_errors import AuditFeedMalformed
from services.gateway.domain.audit_stream import BreakKind, Cursor, Followed, StreamBreak, follow, step_over
from services.meshkit.core.identity import TenantId

TENANT = TenantId(UUID(int=1))


def entry(position: int, *, life: str = "") -> FedEntry:
    canonical = f"{position}{life}".encode()
    return FedEntry(
        stream=0,
        position=position,
        tenant=TENANT,
        record_time=datetime(2026, 1, 1, tzinfo=UTC),
        actor="",
        action="",
        target="",
        canonical=canonical,
        leaf_hash=merkle.leaf_hash(canonical),
    )


def entries(first: int, last: int) -> list[FedEntry]:
    return [entry(position) for position in range(first, last + 1)]


def at(position: int) -> Cursor:
    return Cursor(position=position, leaf_hash=entry(position).leaf_hash)


def followed(cursor: Cursor, came: list[FedEntry], *, last: bool = True) -> Followed:
    return follow("cost", 0, cursor, came, last=last)


@given(st.lists(st.integers(min_value=1, max_value=9), min_size=1, max_size=20))
def test_whatever_the_pages_every_entry_is_taken_once(sizes: list[int]) -> None:
    written = entries(1, sum(sizes))
    cursor, taken = Cursor(), list[FedEntry]()
    for size in sizes:
        page = [one for one in written if one.position > cursor.ask_after][: size + 1]
        step = followed(cursor, page, last=False)
        assert step.found is None
        taken += step.fresh
        cursor = step.cursor
    assert taken == written[: len(taken)]
    assert cursor == at(len(taken))


def test_nothing_new_changes_nothing() -> None:
    step = followed(at(7), entries(7, 7))
    assert (list(step.fresh), step.cursor, step.found) == ([], at(7), None)
    assert followed(at(7), [], last=False).cursor == at(7), "a page may have had no room for this stream"
    assert followed(Cursor(), []).cursor == Cursor()


def test_a_gap_is_found_and_what_stands_before_it_is_taken() -> None:
    step = followed(at(3), [*entries(3, 5), *entries(8, 9)])
    assert step.found == StreamBreak("cost", 0, 6, BreakKind.GAP)
    assert [one.position for one in step.fresh] == [4, 5]
    assert step.cursor == at(5)

    over = step_over(step, [*entries(3, 5), *entries(8, 9)])
    assert [one.position for one in over.fresh] == [4, 5, 8]
    assert over.cursor == at(8)
    assert followed(over.cursor, entries(8, 9)).found is None


def test_a_stream_whose_first_entry_is_missing_has_a_gap() -> None:
    assert followed(Cursor(), entries(2, 3)).found == StreamBreak("cost", 0, 1, BreakKind.GAP)


@pytest.mark.parametrize(
    "came",
    [[], entries(6, 6), [entry(5, life="second")]],
    ids=["it ends earlier", "the newest is gone", "the newest is another"],
)
def test_a_stream_that_is_not_what_it_was_is_rewound(came: list[FedEntry]) -> None:
    step = followed(at(5), came)
    assert step.found == StreamBreak("cost", 0, 5, BreakKind.REWOUND)
    assert (list(step.fresh), step.cursor) == ([], Cursor(again=True))


def test_a_stream_that_is_read_again_may_begin_anywhere_but_has_no_gaps() -> None:
    again = Cursor(again=True)
    step = followed(again, entries(4, 6), last=False)
    assert ([one.position for one in step.fresh], step.cursor.again) == ([4, 5, 6], True)
    assert followed(step.cursor, [*entries(6, 7), entry(9)]).found == StreamBreak("cost", 0, 8, BreakKind.GAP)
    assert not followed(step.cursor, entries(6, 7)).cursor.again, "at its end it is a stream like any other"


def test_positions_that_do_not_rise_are_no_feed() -> None:
    with pytest.raises(AuditFeedMalformed, match="do not rise"):
        followed(Cursor(), [entry(1), entry(1)])


@given(st.lists(st.integers(min_value=0, max_value=7), min_size=1, max_size=12))
def test_a_chain_grows_the_same_in_any_portions(portions: list[int]) -> None:
    written = entries(1, sum(portions))
    whole, parts = ChainEnd.new(), ChainEnd.new()
    at_once = whole.link(written)
    in_parts = [
        link
        for number, size in enumerate(portions)
        for link in parts.link(written[sum(portions[:number]) : sum(portions[:number]) + size])
    ]
    assert in_parts == at_once
    assert (parts.chain_hash, parts.tree.root()) == (whole.chain_hash, whole.tree.root())
    assert [link.index for link in at_once] == list(range(len(written)))
    assert sum(len(link.subtrees) // 32 for link in at_once) == sum(len(written) >> level for level in range(1, 10)), (
        "each perfect tree of two leaves or more is stored with its last leaf"
    )
