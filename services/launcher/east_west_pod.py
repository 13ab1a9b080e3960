"""The east-west listener on Kubernetes: what stands beside Envoy in its pod, see `envoy_pod`.

python -m services.launcher.east_west_pod render     once, before Envoy starts: writes its configuration
python -m services.launcher.east_west_pod keep       beside it, until SIGTERM
"""

import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from services.launcher.east_west import EastWestSettings, render_east_west
from services.launcher.edge import Address
from services.launcher.envoy_pod import (
    EVERYWHERE,
    MOUNTS,
    STATE,
    keep_envoy,
    mounted_mesh_tls,
    run_pod,
    write_mesh_secrets,
)
from services.launcher.layout import write_private
from services.launcher.ports import PREFERRED
from services.launcher.services import SERVICES
from services.meshkit.core.clock import SystemClock


class EastWestWishes(BaseModel):
    """What the chart says of its east-west listener, in `east-west/east-west.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: `host:port` of the seven services.
    services: dict[str, str]
    #: Longest time that calls have to end.
    drain_seconds: float
    max_connections: int


def east_west_settings(wishes: EastWestWishes, *, mounts: Path = MOUNTS, state: Path = STATE) -> EastWestSettings:
    """Says what Envoy is to be like in a pod."""
    return EastWestSettings(
        listen=Address(EVERYWHERE, PREFERRED["east_west"]),
        admin=Address("127.0.0.1", PREFERRED["east_west_admin"]),
        services={service: [Address.parse(wishes.services[service])] for service in SERVICES},
        mesh_tls=mounted_mesh_tls(mounts, state),
        max_connections=wishes.max_connections,
    )


def render(*, mounts: Path = MOUNTS, state: Path = STATE) -> Path:
    """Writes everything that Envoy reads, and gives the file of its configuration."""
    settings = east_west_settings(_wishes(mounts), mounts=mounts, state=state)
    write_mesh_secrets(settings.mesh_tls)
    configuration = state / "east-west.json"
    write_private(configuration, render_east_west(settings).encode())
    return configuration


async def keep() -> None:
    """Keeps the listener until SIGTERM, then ends when it is drained."""
    wishes = _wishes(MOUNTS)
    admin = east_west_settings(wishes).admin
    await keep_envoy(admin, listener="east_west", drain_seconds=wishes.drain_seconds, clock=SystemClock())


def _wishes(mounts: Path) -> EastWestWishes:
    return EastWestWishes.model_validate_json((mounts / "east-west" / "east-west.json").read_bytes())


if __name__ == "__main__":
    sys.exit(run_pod(sys.argv[1:], usage=__doc__, render=render, keep=keep))
