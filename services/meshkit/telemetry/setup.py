"""Turns logs and traces on, once per process."""

from services.meshkit.settings import ServiceSettings
from services.meshkit.telemetry.logs import setup_logs
from services.meshkit.telemetry.tracing import setup_tracing


def setup(service: str, settings: ServiceSettings) -> None:
    """Sets up the telemetry of a process before it does anything else."""
    setup_logs(settings.log_level)
    setup_tracing(
        service, settings.otlp_endpoint, ratio=settings.otlp_ratio, most_waiting=settings.otlp_max_waiting_spans
    )
