"""The life of a batch: whatever happens to it, it moves forward, ends once, and holds money under names of its own."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.domain.batch_job import (
    FINAL,
    MOST_BLIND_SEARCH,
    MOST_SEARCH,
    MOST_WAIT,
    MOVES,
    OPEN,
    BatchItem,
    BatchJob,
    BatchState,
    ItemState,
    ends,
)
from services.inference.domain.errors import BatchEnded
from services.meshkit.testing.mesh_keys import TENANT

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
A_BATCH = BatchJob(
    id=UUID("01900000-0000-7000-8000-00000000000b"),
    tenant=TENANT,
    deployment="openai/gpt-test",
    version=0,
    payee="openai",
    grant_id="grant_1",
    item_count=3,
    created=NOON,
)
walks = st.lists(st.tuples(st.sampled_from(list(BatchState)), st.integers(0, 3600)), max_size=30)


@given(walks)
def test_a_batch_moves_by_the_table_only_and_an_end_is_an_end(walk: list[tuple[BatchState, int]]) -> None:
    job, now = A_BATCH, NOON
    for state, seconds in walk:
        now += timedelta(seconds=seconds)
        if state not in MOVES[job.state]:
            with pytest.raises(ValueError, match="does not go"):
                job.to(state, now)
            continue
        before, job = job, job.to(state, now)
        assert before.state in OPEN
        assert (job.ended is None) == (job.state in OPEN)
        # What may have left says since when; what was taken back does not.
        assert (job.submitted is None) == (job.state in (BatchState.ACCEPTED, BatchState.HELD) or not left(before, job))
        assert job.tries == before.tries + (job.state is BatchState.ACCEPTED)


def left(before: BatchJob, job: BatchJob) -> bool:
    return before.submitted is not None or job.state is BatchState.SUBMITTING


@given(walks)
def test_a_batch_that_may_have_left_never_comes_back_to_leave_again_unless_it_was_taken_back(
    walk: list[tuple[BatchState, int]],
) -> None:
    job, submissions, taken_back = A_BATCH, 0, 0
    for state, _ in walk:
        if state not in MOVES[job.state]:
            continue
        submissions += state is BatchState.SUBMITTING
        taken_back += job.state is BatchState.SUBMITTING and state is BatchState.HELD
        job = job.to(state, NOON)
    assert submissions <= taken_back + 1


@given(st.integers(0, 20), st.integers(0, 999), st.integers(0, 20), st.integers(0, 999))
def test_money_is_held_under_one_name_for_each_item_and_try(a: int, b: int, c: int, d: int) -> None:
    one, other = replace(A_BATCH, tries=a).to_reserve(b), replace(A_BATCH, tries=c).to_reserve(d)
    assert (one == other) == ((a, b) == (c, d))
    assert one != replace(A_BATCH, id=UUID(int=7), tries=a).to_reserve(b)


@given(st.lists(st.sampled_from(list(ItemState)), max_size=20), st.sampled_from(sorted(FINAL)))
def test_ends_leave_what_has_ended_alone(states: list[ItemState], state: ItemState) -> None:
    items = [BatchItem(index=place, item_id=f"i{place}", state=each) for place, each in enumerate(states)]
    ended = ends(items, state, "WHY")
    assert {one.index for one in ended} == {one.index for one in items if one.state not in FINAL}
    assert all((one.state, one.reason) == (state, "WHY") for one in ended)


def test_a_batch_that_is_to_stop_is_cancelled_once_all_has_ended() -> None:
    running = replace(A_BATCH, state=BatchState.RUNNING, cancel_requested=True)
    assert running.finished(NOON).state is BatchState.CANCELLED
    assert replace(running, cancel_requested=False).finished(NOON).state is BatchState.ENDED
    with pytest.raises(BatchEnded):
        running.finished(NOON).check_cancellable()


@pytest.mark.parametrize(
    ("state", "blind", "most"),
    [
        (BatchState.SUBMITTING, False, MOST_SEARCH),
        (BatchState.SUBMITTING, True, MOST_BLIND_SEARCH),
        (BatchState.RUNNING, True, MOST_WAIT),
    ],
)
def test_what_does_not_show_is_given_up_when_it_cannot_come_any_more(
    state: BatchState, blind: bool, most: timedelta
) -> None:
    job = replace(A_BATCH, state=state, submitted=NOON)
    assert not job.given_up(NOON + most - timedelta(seconds=1), blind=blind)
    assert job.given_up(NOON + most, blind=blind)
    assert not A_BATCH.given_up(NOON + timedelta(days=9), blind=blind)
