"""Asks the database whether budgets, holds and the ledger agree."""

from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.sql.scope import driver_scope

#: Of each kind of difference.
_MOST: Final = 20
_COUNTS: Final = """
    SELECT (SELECT count(*) FROM budget) AS budgets, (SELECT count(*) FROM hold) AS holds,
           (SELECT count(*) FROM cost_event) AS entries"""
#: What is held is what open holds hold, in every budget.
_HELD: Final = """
    SELECT budget.id, budget.held_nano_usd AS said, coalesce(open.held, 0)::bigint AS found FROM budget LEFT JOIN (
        SELECT place AS id, sum(amount_nano_usd) AS held FROM hold CROSS JOIN unnest(budget_ids) AS place
        WHERE state IN (1, 2) GROUP BY place) AS open USING (id)
    WHERE budget.held_nano_usd <> coalesce(open.held, 0) ORDER BY id LIMIT $1"""
#: What a run has spent is what its calls were charged, as long as none of its holds was removed for its age.
_SPENT: Final = """
    SELECT budget.id, budget.spent_nano_usd AS said, coalesce(charged.spent, 0)::bigint AS found FROM budget LEFT JOIN (
        SELECT place AS id, sum(charged_nano_usd) AS spent FROM hold CROSS JOIN unnest(budget_ids) AS place
        WHERE state IN (3, 5) GROUP BY place) AS charged USING (id)
    WHERE budget.run_id IS NOT NULL AND budget.period = 0
        AND budget.created_time >= coalesce((SELECT holds_from FROM rollup_mark), '-infinity')
        AND budget.spent_nano_usd <> coalesce(charged.spent, 0) ORDER BY id LIMIT $1"""
#: What a call was charged is what the ledger says of it, as long as none of its entries was removed for its age: holds
#: may be kept for longer than entries, and one that was charged at a ceiling is kept until its price is known.
_CHARGED: Final = """
    SELECT hold.id, hold.charged_nano_usd AS said, coalesce(entries.cost, 0)::bigint AS found FROM hold LEFT JOIN (
        SELECT hold_id AS id, sum(cost_nano_usd) AS cost FROM cost_event GROUP BY hold_id) AS entries USING (id)
    WHERE hold.state IN (3, 5) AND hold.created_time >= coalesce((SELECT kept_from FROM rollup_mark), '-infinity')
        AND hold.charged_nano_usd <> coalesce(entries.cost, 0) ORDER BY id LIMIT $1"""
_SENTENCES: Final = {
    "budget {id} holds {said} nano-USD, and its open holds {found}": _HELD,
    "budget {id} has spent {said} nano-USD, and its calls were charged {found}": _SPENT,
    "hold {id} was charged {said} nano-USD, and the ledger says {found}": _CHARGED,
}


class BookCheck:
    """Reads the books of all tenants. Each comparison is one statement, so that work that goes on disturbs none.

    Args:
        maintenance: engine of the `maintenance` role.
    """

    def __init__(self, maintenance: AsyncEngine) -> None:
        self._engine = maintenance

    async def differences(self) -> tuple[str, list[str]]:
        """Gives what was counted, and a sentence for each difference. Raises: Unavailable."""
        faults: list[str] = []
        async with driver_scope(self._engine, None, read_only=True) as scope:
            counts = await scope.driver.fetchrow(_COUNTS)
            for sentence, statement in _SENTENCES.items():
                faults += [sentence.format(**row) for row in await scope.driver.fetch(statement, _MOST)]
        assert counts is not None
        return (
            f"{counts['budgets']} budgets, {counts['holds']} holds, {counts['entries']} entries of the ledger",
            faults,
        )
