"""`python -m services.policy`: serves until SIGTERM, then drains."""

from services.meshkit.core.imports import for_good

with for_good():
    from services.meshkit.process import run_service
    from services.policy.settings import PolicySettings
    from services.policy.wiring import policy

if __name__ == "__main__":
    run_service("policy", PolicySettings, policy)
