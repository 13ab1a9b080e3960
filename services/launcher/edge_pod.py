"""The edge on Kubernetes: what stands beside Envoy in its pod, see `envoy_pod`.

    python -m services.launcher.edge_pod render     once, before Envoy starts: writes its configuration
    python -m services.launcher.edge_pod keep       beside it, until SIGTERM

The keeper also copies the gateway's key set to where Envoy follows it.
"""

import shutil
import sys
from pathlib import Path
from typing import Final

from services.launcher.edge import (
    DESCRIPTORS,
    Address,
    EdgeSettings,
    ServingCertificate,
    render_edge,
    render_serving_secret,
)
from services.launcher.edge_tokens import TokenCheck
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
from services.meshkit.core.clock import Clock, SystemClock
from services.meshkit.grpc.channel import bare_channel
from services.meshkit.grpc.tls import MeshTls, TlsFiles
from services.meshkit.guard.key_set_mirror import KeySetMirror

_PART: Final = "edge"


class EdgeWishes(EnvoyWishes):
    """What the chart says of its edge."""

    #: `host:port` at which inference serves the dialects of model providers.
    doors: str
    #: Whether services show certificates, and whether callers are shown one.
    mesh_tls: bool
    tls: bool
    flood_factor: float
    edge_per_second: int
    address_per_second: int
    cors_origins: tuple[str, ...]


def edge_settings(wishes: EdgeWishes, *, mounts: Path = MOUNTS, state: Path = STATE) -> EdgeSettings:
    """Says what Envoy is to be like in a pod."""
    listen, admin = own_addresses("edge")
    tls = mounts / "tls"
    serving = ServingCertificate(
        secret=state / "serving.yaml", certificate_chain=tls / "tls.crt", private_key=tls / "tls.key"
    )
    return EdgeSettings(
        listen=listen,
        admin=admin,
        services=wishes.members(),
        doors=[Address.parse(wishes.doors)],
        token_check=state / "token_check" / "token_check.json",
        descriptors=state / "comitia.binpb",
        tls=serving if wishes.tls else None,
        mesh_tls=mounted_mesh_tls(mounts, state) if wishes.mesh_tls else None,
        flood_factor=wishes.flood_factor,
        edge_per_second=wishes.edge_per_second,
        address_per_second=wishes.address_per_second,
        max_connections=wishes.max_connections,
        cors_origins=wishes.cors_origins,
    )


def render(*, mounts: Path = MOUNTS, state: Path = STATE) -> Path:
    """Writes everything that Envoy reads, and gives the file of its configuration.

    The first key set is that of the installation; the keeper brings it up to date.
    """
    settings = edge_settings(EdgeWishes.mounted(mounts, _PART), mounts=mounts, state=state)
    shutil.copyfile(DESCRIPTORS, settings.descriptors)
    TokenCheck(mounts / "keys" / "jwks.json", settings.token_check).write()
    if settings.mesh_tls is not None:
        write_mesh_secrets(settings.mesh_tls)
    if settings.tls is not None:
        write_private(settings.tls.secret, render_serving_secret(settings.tls).encode())
    configuration = state / f"{_PART}.json"
    write_private(configuration, render_edge(settings).encode())
    return configuration


async def keep() -> None:
    """Keeps the edge until SIGTERM, then ends when it is drained."""
    clock, wishes = SystemClock(), EdgeWishes.mounted(MOUNTS, _PART)
    settings = edge_settings(wishes)
    jwks = STATE / "jwks.json"
    gateway = wishes.services["gateway"]
    async with bare_channel(gateway, tls=_mesh_tls(settings, gateway, clock), options=(), service="gateway") as channel:
        await keep_envoy(
            settings.admin,
            listener="edge",
            drain_seconds=wishes.drain_seconds,
            clock=clock,
            heard=jwks.exists,
            beside=(KeySetMirror(channel, jwks, clock=clock)(), TokenCheck(jwks, settings.token_check).follow()),
        )


def _mesh_tls(settings: EdgeSettings, gateway: str, clock: Clock) -> MeshTls | None:
    if settings.mesh_tls is None:
        return None
    shown = settings.mesh_tls
    files = TlsFiles(certificate=shown.certificate_chain, key=shown.private_key, authorities=shown.authorities)
    return MeshTls(files, service="edge", neighbours={gateway: "gateway"}, clock=clock)


if __name__ == "__main__":
    sys.exit(run_pod(sys.argv[1:], usage=__doc__, render=render, keep=keep))
