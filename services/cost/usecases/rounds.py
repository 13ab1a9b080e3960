"""Background work that repeats itself: whatever a round fails by is counted and told, and the next one comes.

What one tenant does must never end the process that holds money for all.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from services.meshkit.core.errors import ErrorKind, MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger

_PASSING: Final = frozenset({ErrorKind.UNAVAILABLE, ErrorKind.EXHAUSTED, ErrorKind.CONFLICT})

log = logger(__name__)


def passes(error: Exception) -> bool:
    """True for an outage: the same work may well succeed a little later."""
    return isinstance(error, MeshError) and error.kind in _PASSING


def failed(work: str, fault: str, error: Exception, **who: str) -> None:
    """Counts and tells what a piece of background work failed by.

    Args:
        work: as the metric names it.
        fault: what is not done right now, as the log says it.
        who: whose it was.
    """
    metrics.COST_ROUNDS_FAILED.labels(work).inc()
    if passes(error):
        log.warning(fault, work=work, cause=str(error), **who)
    else:
        log.error(fault, work=work, exc_info=error, **who)


async def make_round(work: str, step: Callable[[], Awaitable[object]], *, fault: str) -> None:
    """Makes one round; see `failed` for the arguments."""
    try:
        await step()
    except Exception as error:  # noqa: BLE001  # a background loop: it is told, and the next round comes
        failed(work, fault, error)


async def for_each(
    work: str, tenants: Iterable[TenantId], step: Callable[[TenantId], Awaitable[object]], *, fault: str
) -> None:
    """Makes a step for each tenant; what one fails by keeps the others from nothing.

    Raises: MeshError: an outage, which all would meet.
    """
    for tenant in tenants:
        try:
            await step(tenant)
        except Exception as error:
            if passes(error):
                raise
            failed(work, fault, error, tenant=str(tenant))
