"""Who waits for money: first come, first served, and nobody for ever."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.cost.domain.amounts import Amounts, Gauge
from services.cost.domain.budget import Budget, BudgetId, BudgetMode
from services.cost.domain.errors import BudgetExhausted, RefusalCause
from services.cost.domain.hold_lines import HeldBack, HoldLines, Place, RequestKey
from services.cost.domain.spend_book import SpendBook
from services.meshkit.core.money import NanoUsd
from tests.support.examples import examples
from tests.support.money import ANNA, NOON, a_budget, a_hold


class Room:
    """Lines, and the budgets that they are for."""

    def __init__(self, *budgets: Budget) -> None:
        self.woken = 0
        self.lines = HoldLines(changed=self._wake)
        self.budgets = {budget.id: budget for budget in budgets}
        self._numbers = count(1)

    def _wake(self) -> None:
        self.woken += 1

    def joins(self, amount: int, *at: Budget, cheapest: bool = True) -> Place:
        key: RequestKey = ANNA, UUID(int=next(self._numbers))
        held_back = HeldBack(at=tuple(one.id for one in at), most=Amounts(amount), cheapest=cheapest)
        place = self.lines.join(key, held_back)
        self.lines.moved(self.budgets[one.id] for one in at)
        return place

    def becomes(self, budget: Budget, **changes: object) -> Budget:
        before = self.budgets[budget.id]
        after = replace(before, revision=before.revision + 1, **changes)  # type: ignore[arg-type]
        self.budgets[budget.id] = after
        self.lines.moved((after,))
        return after

    def due(self) -> list[Place]:
        return self.lines.due(NOON)


def a_newcomer() -> RequestKey:
    return ANNA, uuid4()


def test_nobody_is_due_while_nothing_comes_free() -> None:
    budget = a_budget(100, held=95)
    room = Room(budget)
    room.joins(10, budget)
    assert room.due() == []
    room.becomes(budget, held=NanoUsd(91))
    assert room.due() == []


def test_those_who_fit_are_due_in_the_order_in_which_they_came() -> None:
    budget = a_budget(100, held=100)
    room = Room(budget)
    places = [room.joins(30, budget) for _ in range(5)]
    assert room.due() == []
    woken = room.woken
    room.becomes(budget, held=NanoUsd(35))
    assert room.woken > woken
    assert room.due() == places[:2]


def test_a_small_call_does_not_pass_a_big_one() -> None:
    budget = a_budget(100, held=90)
    room = Room(budget)
    big, small = room.joins(60, budget), room.joins(5, budget)
    room.becomes(budget, held=NanoUsd(80))
    assert room.due() == []
    turns = room.lines.turns()
    assert turns is not None
    assert turns.someone_before(small.key, budget.id)
    assert turns.someone_before(a_newcomer(), budget.id)
    assert not turns.someone_before(big.key, budget.id)
    room.becomes(budget, held=NanoUsd(30))
    assert room.due() == [big, small]


def test_a_call_that_takes_nothing_of_a_budget_passes_those_who_wait_for_it() -> None:
    budget = a_budget(100, held=95)
    room = Room(budget)
    room.joins(10, budget)
    book = SpendBook([budget], [], now=NOON, new_id=uuid4)
    assert book.reserve(a_hold(0), turns=room.lines.turns()).amount == 0
    with pytest.raises(BudgetExhausted, match="calls that came before wait for it") as refusal:
        book.reserve(a_hold(1), turns=room.lines.turns())
    assert refusal.value.held_back == HeldBack(at=(budget.id,), most=Amounts(1, 1, 1, 60_000), cheapest=False)


def test_what_is_spent_in_any_budget_speaks_before_what_is_held_in_another() -> None:
    tenant, run = a_budget(100, held=95), a_budget(50, run_id="run_1", spent=45)
    book = SpendBook([tenant, run], [], now=NOON, new_id=uuid4)
    with pytest.raises(BudgetExhausted) as refusal:
        book.reserve(a_hold(10, budgets=(run.id,)))
    assert (refusal.value.cause, refusal.value.held_back) == (RefusalCause.SPENT, None)
    calls = replace(a_budget(100, held=95), calls=Gauge(limit=3, spent=3))
    with pytest.raises(BudgetExhausted) as refusal:
        SpendBook([calls], [], now=NOON, new_id=uuid4).reserve(a_hold(10))
    assert refusal.value.cause is RefusalCause.SPENT


def test_who_was_served_in_a_group_stands_in_nobodys_way() -> None:
    budget = a_budget(100, held=100)
    room = Room(budget)
    first, second = room.joins(10, budget), room.joins(10, budget)
    turns = room.lines.turns()
    assert turns is not None
    turns.served(first.key)
    assert not turns.someone_before(second.key, budget.id)
    assert turns.someone_before(a_newcomer(), budget.id)
    turns.served(second.key)
    assert not turns.someone_before(a_newcomer(), budget.id)


def test_whoever_can_never_be_held_is_due_at_once_wherever_it_stands() -> None:
    budget = a_budget(100, held=100)
    room = Room(budget)
    small, big = room.joins(10, budget), room.joins(70, budget)
    last = room.joins(20, budget)
    room.becomes(budget, held=NanoUsd(55), spent=NanoUsd(40))
    assert room.due() == [big]
    room.lines.leave(big)
    room.becomes(budget, held=NanoUsd(15), spent=NanoUsd(80))
    assert room.due() == []
    room.becomes(budget, held=NanoUsd(15), spent=NanoUsd(85))
    assert room.due() == [last]
    room.lines.leave(last)
    room.becomes(budget, held=NanoUsd(0), spent=NanoUsd(101), overrun=NanoUsd(1))
    assert room.due() == [small]


def test_a_budget_that_degrades_ends_the_wait_of_those_that_are_not_the_cheapest() -> None:
    budget = replace(a_budget(100, held=70), mode=BudgetMode.DEGRADE, warn_at=80)
    room = Room(budget)
    dear, cheap = room.joins(40, budget, cheapest=False), room.joins(10, budget)
    assert room.due() == []
    room.becomes(budget, held=NanoUsd(95))
    assert room.due() == [], "what is held may come back"
    room.becomes(budget, held=NanoUsd(15), spent=NanoUsd(80))
    assert room.due() == [dear]
    room.lines.leave(dear)
    room.becomes(budget, held=NanoUsd(10), spent=NanoUsd(80))
    assert room.due() == [cheap]


def test_a_dearer_model_waits_below_the_level_of_a_budget_that_degrades_until_held_money_comes_back() -> None:
    budget = replace(a_budget(100, held=85), mode=BudgetMode.DEGRADE, warn_at=80)
    room = Room(budget)
    dear = room.joins(10, budget, cheapest=False)
    assert room.due() == []
    room.becomes(budget, held=NanoUsd(60), spent=NanoUsd(19))
    assert room.due() == [dear]


def test_a_call_waits_in_all_lines_that_it_was_ever_refused_at() -> None:
    tenant, run = a_budget(100, held=100), a_budget(50, run_id="run_1", held=50)
    room = Room(tenant, run)
    both = room.joins(20, tenant, run)
    behind = room.joins(5, run)
    room.becomes(run, held=NanoUsd(0))
    assert room.due() == []
    room.becomes(tenant, held=NanoUsd(80))
    assert room.due() == [both]
    room.lines.leave(both)
    assert room.due() == [behind]


def test_who_is_refused_elsewhere_keeps_its_number_and_goes_before_those_who_came_later() -> None:
    tenant, run = a_budget(100, held=100), a_budget(50, run_id="run_1", held=50)
    room = Room(tenant, run)
    old, young = room.joins(20, run), room.joins(20, tenant)
    room.lines.join(old.key, HeldBack(at=(tenant.id,), most=Amounts(20), cheapest=True))
    assert [place.number for place in room.lines.at(tenant.id)] == [old.number, young.number]
    assert old.at == {tenant.id, run.id}


def test_the_same_news_is_looked_through_once() -> None:
    budget = a_budget(100, held=100)
    room = Room(budget)
    place = room.joins(10, budget)
    after = room.becomes(budget, held=NanoUsd(0))
    assert room.due() == [place]
    room.lines.moved((after,))
    assert room.due() == []


def test_old_news_does_not_hide_what_is_known_already() -> None:
    budget = a_budget(100, held=100)
    room = Room(budget)
    place = room.joins(10, budget)
    older = replace(budget, revision=1)
    room.lines.moved((replace(budget, revision=2, held=NanoUsd(0)), older))
    assert room.due() == [place]


def test_who_leaves_lets_the_next_one_pass() -> None:
    budget = a_budget(100, held=90)
    room = Room(budget)
    big, small = room.joins(60, budget), room.joins(5, budget)
    assert room.due() == []
    room.lines.leave(big)
    assert room.due() == [small]
    room.lines.leave(small)
    room.lines.leave(small)
    assert (len(room.lines), room.lines.turns()) == (0, None)


def test_polls_go_round_all_lines() -> None:
    budgets = [a_budget(10, run_id=f"run_{number}", held=10) for number in range(5)]
    room = Room(*budgets)
    places = [room.joins(1, budget) for budget in budgets]
    polled = [room.lines.firsts(2), room.lines.firsts(2), room.lines.firsts(2)]
    assert polled[0] == places[0:2]
    assert polled[1] == places[2:4]
    assert set(map(id, polled[2])) == {id(places[4]), id(places[0])}


#: What happens: a call of so much comes to some budgets, or so much comes free in one.
events = st.lists(
    st.one_of(
        st.tuples(st.just("comes"), st.integers(1, 60), st.sets(st.integers(0, 2), min_size=1)),
        st.tuples(st.just("frees"), st.integers(1, 100), st.sets(st.integers(0, 2), min_size=1, max_size=1)),
    ),
    max_size=40,
)


@settings(max_examples=examples(200), deadline=None)
@given(events)
def test_the_lines_serve_in_order_within_limits_and_leave_nobody_behind(
    happened: Sequence[tuple[str, int, set[int]]],
) -> None:
    budgets = [a_budget(100, run_id=f"run_{number}", held=100) for number in range(3)]
    room = Room(*budgets)
    served: dict[BudgetId, list[int]] = {budget.id: [] for budget in budgets}

    def serve() -> None:
        while due := room.due():
            for place in due:
                room.lines.leave(place)
                for name in place.at:
                    served[name].append(place.number)
                    before = room.budgets[name]
                    room.becomes(before, held=NanoUsd(before.held + place.held_back.most.money))

    for what, amount, where in happened:
        if what == "comes":
            room.joins(amount, *(budgets[number] for number in where))
        else:
            before = room.budgets[budgets[where.pop()].id]
            room.becomes(before, held=NanoUsd(max(0, before.held - amount)))
        serve()
        assert all(budget.held <= 100 for budget in room.budgets.values())
        assert all(numbers == sorted(numbers) for numbers in served.values())
    # Once nothing is held any more, each of them gets its turn.
    while len(room.lines):
        for budget in budgets:
            room.becomes(budget, held=NanoUsd(0))
        left = len(room.lines)
        serve()
        assert len(room.lines) < left
    assert all(numbers == sorted(numbers) for numbers in served.values())
