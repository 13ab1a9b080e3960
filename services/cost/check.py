"""Holds budgets, holds and the ledger against each other: `python -m services.cost.check`. Changes nothing."""

from services.cost.settings import CostSettings
from services.cost.wiring.checking import check_money
from services.meshkit.checking import run_check

if __name__ == "__main__":
    run_check("cost", CostSettings, check_money)
