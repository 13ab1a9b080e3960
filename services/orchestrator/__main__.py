"""Runs the orchestrator: `python -m services.orchestrator`."""

from services.meshkit.core.imports import for_good

with for_good():
    from services.meshkit.process import run_service
    from services.orchestrator.settings import OrchestratorSettings
    from services.orchestrator.wiring import orchestrator

if __name__ == "__main__":
    run_service("orchestrator", OrchestratorSettings, orchestrator)
