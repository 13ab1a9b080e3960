"""How the mesh is doing."""

import asyncio
from collections.abc import Sequence

from services.gateway.usecases.ports import Health, HealthProbe


class MeshStatus:
    """Asks all services at once."""

    def __init__(self, probes: Sequence[HealthProbe]) -> None:
        self._probes = tuple(probes)

    async def __call__(self) -> dict[str, Health]:
        """Gives the health of each service by name, sorted by name."""
        async with asyncio.TaskGroup() as tasks:
            asked = {probe.name: tasks.create_task(probe()) for probe in self._probes}
        return {name: asked[name].result() for name in sorted(asked)}
