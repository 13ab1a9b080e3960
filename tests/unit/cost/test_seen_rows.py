"""What cost remembers of the ledger is bounded, and is dropped when it proves wrong."""

from uuid import uuid4

import pytest

from services.cost.domain.budget import Budget
from services.cost.domain.changes import Changes
from services.cost.domain.hold import Hold
from services.cost.domain.spend_book import SpendBook
from services.cost.storage import seen_rows
from services.cost.storage.seen_rows import SeenRows
from services.cost.usecases.ports import SpendNeeds
from tests.support.money import ANNA, NOON, a_budget, a_hold


def reserved(budget: Budget, *holds: Hold) -> Changes:
    book = SpendBook((budget,), (), now=NOON, new_id=uuid4)
    for hold in holds:
        book.reserve(hold)
    return book.changes()


def moving(hold: Hold) -> SpendNeeds:
    return SpendNeeds(tenants=frozenset((ANNA,)), moved=frozenset((hold.id,)))


def test_a_committed_hold_is_recalled_with_its_budgets_as_they_are_now() -> None:
    seen, hold = SeenRows(), a_hold(4)
    seen.learn(reserved(a_budget(10), hold))
    budgets, holds = seen.recall(moving(hold)) or ([], [])
    assert ([budget.held for budget in budgets], holds) == ([4], [hold])


def test_rows_that_proved_wrong_are_forgotten() -> None:
    seen, hold = SeenRows(), a_hold(4)
    changes = reserved(a_budget(10), hold)
    seen.learn(changes)
    seen.forget(changes)
    assert seen.recall(moving(hold)) is None


def test_the_oldest_holds_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen_rows, "_MOST_HOLDS", 20)
    seen, holds = SeenRows(), [a_hold(1) for _ in range(21)]
    for hold in holds:
        seen.learn(reserved(a_budget(100), hold))
    assert seen.recall(moving(holds[0])) is None
    assert seen.recall(moving(holds[-1])) is not None
