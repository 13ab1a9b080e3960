"""Errors that were nobody's plan: logged with their stack, shown to callers as an id and nothing else."""

from uuid import uuid4

from services.meshkit.core.errors import Internal
from services.meshkit.telemetry import metrics, names
from services.meshkit.telemetry.logs import logger

log = logger(__name__)


def incident(error: Exception, *, method: str) -> Internal:
    """Logs an unexpected error and gives what the caller may know of it: the id that finds the log line."""
    incident_id = uuid4().hex
    metrics.INCIDENTS.labels(method).inc()
    log.error("a call failed unexpectedly", method=method, exc_info=error, **{names.LOG_INCIDENT_ID: incident_id})
    return Internal(f"something went wrong on our side; report the incident {incident_id}", incident_id=incident_id)
