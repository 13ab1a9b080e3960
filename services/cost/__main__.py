"""Runs cost: `python -m services.cost`."""

from services.meshkit.core.imports import for_good

with for_good():
    from services.cost.settings import CostSettings
    from services.cost.wiring import cost
    from services.meshkit.process import run_service

if __name__ == "__main__":
    run_service("cost", CostSettings, cost)
