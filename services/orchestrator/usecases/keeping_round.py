"""One round of the work that keeps journals small: a failure is counted and told, and the next round comes."""

from collections.abc import Awaitable, Callable

from services.meshkit.core.errors import MeshError
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

log = logger(__name__)


async def keeping_round(work: str, step: Callable[[], Awaitable[object]], *, fault: str) -> None:
    """Makes a round.

    Args:
        work: as the metric names it.
        fault: what is not done right now, as the log says it.
    """
    try:
        await step()
    except MeshError as error:
        metrics.JOURNAL_KEEPING_FAILED.labels(work).inc()
        log.warning(fault, cause=error.message)
