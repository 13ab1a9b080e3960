"""The rules of memory: what fits into a recall, and what may be remembered."""

import math
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.memory.domain.memory import (
    Memory,
    MemoryId,
    Placement,
    Remembrance,
    checked_parts,
    checked_ring_ttl,
    checked_tags,
)
from services.memory.domain.recall import RecallQuery, Scored, fit, rank
from services.meshkit.content import (
    CallContext,
    CallId,
    DocumentPart,
    ImagePart,
    Part,
    ToolCallPart,
    ToolResultPart,
    text_part,
)
from services.meshkit.core.errors import Invalid
from services.meshkit.testing.fake_clock import NOON
from services.meshkit.testing.mesh_keys import TENANT
from tests.support.memory_table import USER, a_memory

sizes = st.lists(st.integers(1, 60), max_size=12)


def of_tokens(tokens: int) -> Memory:
    return a_memory("x" * (4 * tokens))


def a_query(**changes: Any) -> RecallQuery:
    values: dict[str, Any] = {
        "context": CallContext(call_id=CallId(run_id="direct_1")),
        "query": "cars",
        "session": None,
        "agent": "",
        "recent_turns": 0,
        "semantic_matches": 0,
        "min_score": 0.0,
        "max_tokens": 0,
    }
    return RecallQuery(**{**values, **changes})


def a_remembrance(*parts: Part, **changes: Any) -> Remembrance:
    values: dict[str, Any] = {
        "tenant": TENANT,
        "from_mesh": True,
        "context": CallContext(call_id=CallId(run_id="run_1", path="rounds/1/Athena")),
        "session": uuid4(),
        "agent": "Athena",
        "parts": parts or (text_part("Ban cars.", USER),),
        "tags": (),
        "ring_ttl": timedelta(hours=1),
        "digest": b"d",
    }
    return Remembrance(**{**values, **changes})


@given(turns=sizes, matches=sizes, budget=st.integers(1, 200))
def test_what_is_recalled_fits_and_leaves_out_the_oldest_turns(
    turns: list[int], matches: list[int], budget: int
) -> None:
    newest_first = [of_tokens(size) for size in turns]
    best_first = [Scored(of_tokens(size), 1 - place / 100) for place, size in enumerate(matches)]
    recalled = fit(newest_first, best_first, budget=budget, skipped=False)
    shown = [*recalled.recent, *(match.memory for match in recalled.semantic)]
    assert sum(memory.tokens for memory in shown) <= budget
    # Turns are the latest ones without a gap, oldest first.
    assert list(recalled.recent) == newest_first[: len(recalled.recent)][::-1]
    assert [match.score for match in recalled.semantic] == sorted((m.score for m in recalled.semantic), reverse=True)
    assert recalled.truncated == (len(shown) < len(turns) + len(matches))
    left = budget - sum(memory.tokens for memory in shown)
    if len(recalled.recent) < len(newest_first):
        assert newest_first[len(recalled.recent)].tokens > left


def test_one_huge_match_does_not_push_out_everything() -> None:
    turn, small = of_tokens(10), of_tokens(10)
    recalled = fit([turn], [Scored(of_tokens(5_000), 0.9), Scored(small, 0.8)], budget=30, skipped=False)
    assert [match.memory for match in recalled.semantic] == [small]
    assert recalled.recent == (turn,)
    assert recalled.truncated


def test_ranking_drops_what_is_shown_already_or_too_far_off() -> None:
    shown = a_memory("shown")
    near, nearer, far = (MemoryId(uuid4()) for _ in range(3))
    scores = {near: 0.5, shown.id: 0.99, far: 0.29, nearer: 0.6}
    assert rank(scores, without=[shown], least=0.3) == [nearer, near]
    assert rank(dict.fromkeys((near, nearer), 0.5), without=[], least=0.5) == sorted((near, nearer))


def test_defaults_of_a_recall() -> None:
    assert a_query().checked().least_score == 0.3
    assert a_query(min_score=-0.2).checked().least_score == -0.2
    assert a_query().token_budget == 4_000


@pytest.mark.parametrize("score", [math.nan, math.inf, -1.01])
def test_a_score_that_is_none_is_refused(score: float) -> None:
    with pytest.raises(Invalid):
        a_query(min_score=score).checked()


def test_content_of_every_kind_counts() -> None:
    parts = (
        text_part("é", USER),
        Part(ImagePart(media_type="image/png", data=b"12345")),
        Part(DocumentPart(media_type="text/plain", data=b"123", title="ab")),
        Part(ToolCallPart(tool_call_id="1", name="add", arguments={"a": 1})),
        Part(ToolResultPart(tool_call_id="1", name="add", text="2")),
    )
    assert a_remembrance(*parts).to_memory(MemoryId(uuid4()), parts, now=NOON, verdict_id="v").tokens == -(-28 // 4)
    with pytest.raises(Invalid):
        checked_parts((Part(ImagePart(media_type="image/png", data=b"x" * 65_537)),))


def test_tags_are_kept_once_and_in_order() -> None:
    assert checked_tags(["b", "a", "b"]) == ("b", "a")


def test_a_ring_ttl_of_nothing_is_a_day() -> None:
    assert checked_ring_ttl(0) == timedelta(days=1)
    assert checked_ring_ttl(1) == timedelta(seconds=1)


def test_a_memory_without_text_is_not_embedded_and_without_session_does_not_expire() -> None:
    picture = Part(ImagePart(media_type="image/png", data=b"1"))
    memory = a_remembrance(picture, session=None).to_memory(MemoryId(uuid4()), (picture,), now=NOON, verdict_id="v")
    assert (memory.placement, memory.expires) == (Placement.NONE, None)
    said = a_remembrance()
    assert said.to_memory(MemoryId(uuid4()), said.parts, now=NOON, verdict_id="v").placement is Placement.PENDING


def test_a_call_is_its_id_and_who_may_use_it() -> None:
    call = a_remembrance()
    again = a_remembrance(text_part("Something else.", USER))
    assert call.call_key == again.call_key
    assert call.call_key != a_remembrance(from_mesh=False).call_key
    other = CallContext(call_id=CallId(run_id="run_1", path="rounds/1/Athena", index=1))
    assert call.call_key != a_remembrance(context=other).call_key
