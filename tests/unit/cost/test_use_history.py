"""What is usual and what is long, told from counts of call shapes."""

from datetime import date
from math import floor, log2

from hypothesis import given
from hypothesis import strategies as st

from services.cost.domain.hold import CostKind
from services.cost.domain.use_history import CallShape, Use, UsedDay, use_of
from services.meshkit.content import Usage
from services.meshkit.core.money import NanoUsd

Call = tuple[int, int]
FIRST = date(2026, 3, 1)


def shapes_of(calls: list[Call]) -> tuple[CallShape, ...]:
    found: dict[tuple[int, int], list[int]] = {}
    for prompt, answer in calls:
        found.setdefault((floor(4 * log2(prompt)), floor(4 * log2(prompt / answer))), []).append(prompt)
    return tuple(CallShape(*steps, len(prompts), sum(prompts)) for steps, prompts in sorted(found.items()))


def a_use(*days: list[Call]) -> Use:
    used = [
        UsedDay(
            day=FIRST.replace(day=number),
            calls=len(calls),
            usage=Usage(input=sum(prompt for prompt, _ in calls), output=sum(answer for _, answer in calls)),
            cost=NanoUsd(number),
            warm_calls=number,
            shapes=shapes_of(calls),
        )
        for number, calls in enumerate(days, start=1)
    ]
    return use_of(kind=CostKind.GENERATE, provider="openai", model="gpt-test", agent="Athena", days=used)


def test_long_is_what_is_long_for_all_days_together() -> None:
    use = a_use([(1_000, 100)] * 9, [(1_000, 100)] * 9 + [(50_000, 100)])
    assert [(day.long_calls, day.long_tokens) for day in use.days] == [(0, 0), (1, 48_000)]
    assert use.short_prompt_tokens == 1_000
    assert [(day.day.day, day.calls, day.cost, day.warm_calls) for day in use.days] == [(1, 9, 1, 1), (2, 10, 2, 2)]
    assert use.usage == Usage(input=68_000, output=1_900)


def test_a_long_prompt_with_an_answer_as_long_is_no_waste() -> None:
    assert a_use([(1_000, 100)] * 9 + [(50_000, 5_000)]).days[0].long_calls == 0


def test_three_times_the_usual_length_is_not_long_yet() -> None:
    assert a_use([(1_000, 100)] * 9 + [(3_000, 100)]).days[0].long_calls == 0
    assert a_use([(1_000, 100)] * 9 + [(4_800, 100)]).days[0].long_calls == 1


def test_who_used_nothing_has_no_usual_length() -> None:
    assert a_use([]).short_prompt_tokens == 0


@given(
    days=st.lists(
        st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**5)), min_size=1, max_size=40),
        min_size=1,
        max_size=5,
    )
)
def test_lengths_are_known_to_a_fifth(days: list[list[Call]]) -> None:
    use = a_use(*days)
    prompts = sorted(prompt for calls in days for prompt, _ in calls)
    short = prompts[max(0, -(-len(prompts) * 5 // 100) - 1)]
    assert short / 1.2 - 1 <= use.short_prompt_tokens <= short * 1.2
    usual = prompts[-(-len(prompts) // 2) - 1]
    for day, calls in zip(use.days, days, strict=True):
        assert 0 <= day.long_calls <= sum(prompt > 2 * usual for prompt, _ in calls)
        assert 0 <= day.long_tokens <= sum(prompt for prompt, _ in calls)
