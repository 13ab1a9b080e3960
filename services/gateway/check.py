"""Holds the audit trail against itself and the signed heads: `python -m services.gateway.check`. Changes nothing."""

from services.gateway.settings import GatewaySettings
from services.gateway.wiring.checking import check_audit
from services.meshkit.checking import run_check

if __name__ == "__main__":
    run_check("gateway", GatewaySettings, check_audit)
