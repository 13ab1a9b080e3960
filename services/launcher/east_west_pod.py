"""The east-west listener on Kubernetes: what stands beside Envoy in its pod, see `envoy_pod`.

python -m services.launcher.east_west_pod render     once, before Envoy starts: writes its configuration
python -m services.launcher.east_west_pod keep       beside it, until SIGTERM
"""

import sys
from pathlib import Path
from typing import Final

from services.launcher.east_west import EastWestSettings, render_east_west
from services.launcher.envoy_pod import (
    MOUNTS,
    STATE,
    EnvoyWishes,
    keep_envoy,
    mounted_mesh_tls,
    own_addresses,
    run_pod,
    write_mesh_secrets,
)
from services.launcher.layout import write_private
from services.meshkit.core.clock import SystemClock

_PART: Final = "east-west"


def east_west_settings(wishes: EnvoyWishes, *, mounts: Path = MOUNTS, state: Path = STATE) -> EastWestSettings:
    """Says what Envoy is to be like in a pod."""
    listen, admin = own_addresses("east_west")
    return EastWestSettings(
        listen=listen,
        admin=admin,
        services=wishes.members(),
        mesh_tls=mounted_mesh_tls(mounts, state),
        max_connections=wishes.max_connections,
    )


def render(*, mounts: Path = MOUNTS, state: Path = STATE) -> Path:
    """Writes everything that Envoy reads, and gives the file of its configuration."""
    settings = east_west_settings(EnvoyWishes.mounted(mounts, _PART), mounts=mounts, state=state)
    write_mesh_secrets(settings.mesh_tls)
    configuration = state / f"{_PART}.json"
    write_private(configuration, render_east_west(settings).encode())
    return configuration


async def keep() -> None:
    """Keeps the listener until SIGTERM, then ends when it is drained."""
    wishes = EnvoyWishes.mounted(MOUNTS, _PART)
    admin = east_west_settings(wishes).admin
    await keep_envoy(admin, listener="east_west", drain_seconds=wishes.drain_seconds, clock=SystemClock())


if __name__ == "__main__":
    sys.exit(run_pod(sys.argv[1:], usage=__doc__, render=render, keep=keep))
