"""Renders the configuration of an Envoy of this machine into a file, in a process of its own.

    python -m services.launcher.envoy_file <what `arguments` gives>

Templates, YAML and the contracts take 15 MB, which the launcher would keep for as long as the mesh runs.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from services.launcher.layout import write_private
from services.launcher.ports import NO_MORE, doors_port_name
from services.launcher.services import SERVICES, Replicas, processes

if TYPE_CHECKING:
    from services.launcher.edge import Address, MeshTlsFiles

#: The Envoys of a mesh.
EDGE: Final = "edge"
EAST_WEST: Final = "east-west"


def arguments(
    envoy: str,
    file: Path,
    *,
    host: str,
    ports: Mapping[str, int],
    token_check: Path,
    mesh_tls: Mapping[str, Path] | None,
    replicas: Replicas = NO_MORE,
) -> tuple[str, str, str]:
    """Gives the arguments with which this renders an Envoy of a mesh whose parts listen on these ports.

    Args:
        envoy: `edge` or `east-west`.
        host: that the edge listens on.
        mesh_tls: fields of `edge.MeshTlsFiles`; None speaks plain text with the services.
    """
    tls = None if mesh_tls is None else {name: str(path) for name, path in mesh_tls.items()}
    wishes = {
        "host": host,
        "ports": dict(ports),
        "token_check": str(token_check),
        "mesh_tls": tls,
        "replicas": dict(replicas),
    }
    return envoy, str(file), json.dumps(wishes)


def main(envoy: str, file: str, wishes: str) -> None:
    """Renders and writes."""
    from services.launcher.edge import MeshTlsFiles, render_mesh_secrets

    wanted = json.loads(wishes)
    tls: dict[str, str] | None = wanted["mesh_tls"]
    mesh_tls = None if tls is None else MeshTlsFiles(**{name: Path(path) for name, path in tls.items()})
    if mesh_tls is not None:
        for name, text in render_mesh_secrets(mesh_tls).items():
            write_private(mesh_tls.secrets / name, text.encode())
    if envoy == EDGE:
        rendered = _edge(wanted, mesh_tls)
    else:
        assert mesh_tls is not None
        rendered = _east_west(wanted, mesh_tls)
    write_private(Path(file), rendered.encode())


def _edge(wanted: Mapping[str, Any], mesh_tls: "MeshTlsFiles | None") -> str:
    from services.launcher.edge import Address, EdgeSettings, render_edge

    ports: dict[str, int] = wanted["ports"]
    settings = EdgeSettings(
        listen=Address(wanted["host"], ports["edge"]),
        admin=Address("127.0.0.1", ports["edge_admin"]),
        services=_members(wanted),
        doors=[Address("127.0.0.1", ports[doors_port_name(one)]) for one in _serving("inference", wanted)],
        token_check=Path(wanted["token_check"]),
        mesh_tls=mesh_tls,
    )
    return render_edge(settings)


def _east_west(wanted: Mapping[str, Any], mesh_tls: "MeshTlsFiles") -> str:
    from services.launcher.east_west import EastWestSettings, render_east_west
    from services.launcher.edge import Address

    ports: dict[str, int] = wanted["ports"]
    settings = EastWestSettings(
        listen=Address("127.0.0.1", ports["east_west"]),
        admin=Address("127.0.0.1", ports["east_west_admin"]),
        services=_members(wanted),
        mesh_tls=mesh_tls,
    )
    return render_east_west(settings)


def _members(wanted: Mapping[str, Any]) -> "dict[str, list[Address]]":
    from services.launcher.edge import Address

    ports: dict[str, int] = wanted["ports"]
    return {service: [Address("127.0.0.1", ports[one]) for one in _serving(service, wanted)] for service in SERVICES}


def _serving(service: str, wanted: Mapping[str, Any]) -> tuple[str, ...]:
    return processes(service, wanted["replicas"].get(service, 1))


if __name__ == "__main__":
    main(*sys.argv[1:])
