"""Steps of loops that nothing may end."""

from collections.abc import Awaitable, Callable

from services.meshkit.core.errors import MeshError
from services.meshkit.telemetry.logs import logger

log = logger(__name__)


async def tried(fault: str, step: Callable[[], Awaitable[object]]) -> bool:
    """Takes one step of a loop that goes on whatever comes of it: the engine never stops. Says whether it went well."""
    try:
        await step()
        return True
    except MeshError as error:
        log.warning(fault, cause=str(error))
    except Exception as error:
        log.exception(fault, cause=str(error))
    return False
