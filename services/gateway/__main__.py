"""Runs the gateway: `python -m services.gateway`."""

from services.meshkit.core.imports import for_good

with for_good():
    from services.gateway.settings import GatewaySettings
    from services.gateway.wiring import gateway
    from services.meshkit.process import run_service

if __name__ == "__main__":
    run_service("gateway", GatewaySettings, gateway)
