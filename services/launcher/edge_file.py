"""Renders the configuration of the edge into a file, in a process of its own.

    python -m services.launcher.edge_file <what `arguments` gives>

Templates, YAML and the contracts take 15 MB, which the launcher would keep for as long as the mesh runs.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from services.launcher.layout import write_private


def arguments(file: Path, *, host: str, ports: Mapping[str, int], token_check: Path) -> tuple[str, str]:
    """Gives the arguments with which this renders the edge of a mesh whose parts listen on these ports."""
    return str(file), json.dumps({"host": host, "ports": dict(ports), "token_check": str(token_check)})


def main(file: str, wishes: str) -> None:
    """Renders and writes."""
    from services.launcher.edge import Address, EdgeSettings, render_edge
    from services.launcher.services import SERVICES

    wanted = json.loads(wishes)
    ports: dict[str, int] = wanted["ports"]
    settings = EdgeSettings(
        listen=Address(wanted["host"], ports["edge"]),
        admin=Address("127.0.0.1", ports["edge_admin"]),
        services={service: Address("127.0.0.1", ports[service]) for service in SERVICES},
        token_check=Path(wanted["token_check"]),
    )
    write_private(Path(file), render_edge(settings).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
