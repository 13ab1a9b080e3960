"""Checks a mesh from outside, by the address in COMITIA_URL and the key in COMITIA_API_KEY: what `helm test` runs.

python -m services.launcher.mesh_check health     all seven services say that they are well
python -m services.launcher.mesh_check debate     two agents debate to the end, on the model `stub`
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from comitia.gateway.v1 import status_service_pb2
from comitia.orchestrator.v1 import session_pb2
from comitia_sdk.aio import AsyncClient
from comitia_sdk.errors import ComitiaError
from services.launcher.errors import LauncherError
from services.launcher.services import SERVICES

_LONGEST_SECONDS: Final = 120.0
_AGENTS: Final = ("InstallationCheckFor", "InstallationCheckAgainst")


async def health(client: AsyncClient) -> str:
    """Gives a sentence when all are well. Raises: LauncherError: some are not."""
    found = {one.name: one.health for one in (await client.status()).services}
    ill = [name for name in SERVICES if found.get(name) != status_service_pb2.SERVICE_HEALTH_SERVING]
    if ill:
        raise LauncherError(f"not well: {', '.join(ill)}")
    return "all seven services are well"


async def debate(client: AsyncClient) -> str:
    """Gives a sentence when a debate came to its end. Raises: LauncherError: it did not."""
    for name in _AGENTS:
        await client.agents.create(name, instructions="Argue in one sentence.", model="stub")
    session = await client.sessions.start("Does this installation work?", agents=_AGENTS, max_rounds=1)
    async with asyncio.timeout(_LONGEST_SECONDS):
        async for _ in client.sessions.watch(session.session_id):
            pass
    ended = await client.sessions.get(session.session_id)
    if ended.state != session_pb2.SESSION_STATE_SUCCEEDED:
        raise LauncherError(f"the debate {ended.session_id} ended as {session_pb2.SessionState.Name(ended.state)}")
    return f"the debate {ended.session_id} succeeded"


_CHECKS: Final[Mapping[str, Callable[[AsyncClient], Awaitable[str]]]] = {"health": health, "debate": debate}


async def _check(name: str) -> str:
    async with AsyncClient() as client:
        return await _CHECKS[name](client)


def main(arguments: list[str]) -> int:
    """Runs from the command line. Returns the exit code."""
    if len(arguments) != 1 or arguments[0] not in _CHECKS:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        print(asyncio.run(_check(arguments[0])))
    except (LauncherError, ComitiaError, TimeoutError) as failure:
        print(str(failure) or "it took too long", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
