"""Replays the newest runs of all tenants from their journals: `python -m services.orchestrator.check [RUNS]`.

Changes nothing. RUNS is how many are replayed, 200 by default; as many archived ones are read.
"""

import sys
from functools import partial

from services.meshkit.checking import run_check
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.wiring.checking import MOST_RUNS, check_runs

if __name__ == "__main__":
    most = int(sys.argv[1]) if sys.argv[1:] else MOST_RUNS
    run_check("orchestrator", OrchestratorSettings, partial(check_runs, most=most))
