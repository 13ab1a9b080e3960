"""Renders the configuration of the east-west listener: `deploy/envoy/east_west.yaml.j2` filled in from its settings.

Source: docs/decisions/0020-east-west.md
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.launcher.edge import Address, MeshTlsFiles
from services.launcher.envoy_templates import environment, part
from services.launcher.services import CALLS, SERVICES
from services.meshkit.grpc.channel import REPEATABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class EastWestSettings:
    """What an installation decides about its east-west listener."""

    listen: Address
    #: Envoy's own admin page. Loopback only.
    admin: Address
    #: gRPC addresses of each of the seven services, by name. Several, and a name that resolves to several, are balanced
    #: over.
    services: Mapping[str, Sequence[Address]]
    #: What it shows to both sides, with the DNS name `east-west.comitia`, and holds them against.
    mesh_tls: MeshTlsFiles
    #: File of what never got to a service; None writes it to stdout.
    access_log: Path | None = None
    max_connections: int = 10_000

    def __post_init__(self) -> None:
        if self.admin.host not in ("127.0.0.1", "::1"):
            raise ValueError(f"the admin page of the listener must listen on the loopback, not on {self.admin.host}")
        missing = set(SERVICES) - self.services.keys()
        if missing:
            raise ValueError(f"the listener needs the addresses of {', '.join(sorted(missing))}")


def render_east_west(settings: EastWestSettings) -> str:
    """Gives the whole Envoy configuration as JSON, as `edge.render_edge` does."""
    values = {
        "admin": settings.admin,
        "listen": settings.listen,
        "services": settings.services,
        "callers": {name: [one for one in SERVICES if name in CALLS[one]] for name in SERVICES},
        "mesh_secrets": settings.mesh_tls.secrets.absolute(),
        "log_path": settings.access_log.absolute() if settings.access_log else None,
        "max_connections": settings.max_connections,
        "repeatable_header": REPEATABLE,
    }
    return json.dumps(part(environment(), "east_west", values), indent=1)
