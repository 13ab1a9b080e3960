"""Renders the configuration of the edge into a file, in a process of its own.

    python -m services.launcher.edge_file <what `arguments` gives>

Templates, YAML and the contracts take 15 MB, which the launcher would keep for as long as the mesh runs.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from services.launcher.layout import write_private
from services.launcher.ports import NO_MORE, doors_port_name
from services.launcher.services import SERVICES, Replicas, processes


def arguments(
    file: Path,
    *,
    host: str,
    ports: Mapping[str, int],
    token_check: Path,
    mesh_tls: Mapping[str, Path] | None,
    replicas: Replicas = NO_MORE,
) -> tuple[str, str]:
    """Gives the arguments with which this renders the edge of a mesh whose parts listen on these ports.

    Args:
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
    return str(file), json.dumps(wishes)


def main(file: str, wishes: str) -> None:
    """Renders and writes."""
    from services.launcher.edge import Address, EdgeSettings, MeshTlsFiles, render_edge, render_mesh_secrets

    wanted = json.loads(wishes)
    ports: dict[str, int] = wanted["ports"]
    tls: dict[str, str] | None = wanted["mesh_tls"]
    mesh_tls = None if tls is None else MeshTlsFiles(**{name: Path(path) for name, path in tls.items()})
    serving = {service: processes(service, wanted["replicas"].get(service, 1)) for service in SERVICES}
    settings = EdgeSettings(
        listen=Address(wanted["host"], ports["edge"]),
        admin=Address("127.0.0.1", ports["edge_admin"]),
        services={service: [Address("127.0.0.1", ports[one]) for one in serving[service]] for service in SERVICES},
        doors=[Address("127.0.0.1", ports[doors_port_name(one)]) for one in serving["inference"]],
        token_check=Path(wanted["token_check"]),
        mesh_tls=mesh_tls,
    )
    if mesh_tls is not None:
        for name, text in render_mesh_secrets(mesh_tls).items():
            write_private(mesh_tls.secrets / name, text.encode())
    write_private(Path(file), render_edge(settings).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
