"""Renders the configuration of the edge for a mesh of containers, where each service is found by its name.

    python -m services.launcher.edge_image <file>

The image of the edge is built with it. Whoever names services otherwise renders `EdgeSettings` of their own.
"""

import sys
from pathlib import Path
from typing import Final

from services.launcher.edge import Address, EdgeSettings, render_edge
from services.launcher.ports import DOORS, PREFERRED
from services.launcher.services import SERVICES

#: Where the edge finds how tokens are verified: a volume that `edge_keys` writes.
TOKEN_CHECK: Final = Path("/var/lib/comitia/token_check/token_check.json")


def image_settings() -> EdgeSettings:
    """Gives the edge of containers: open to all of its network, its admin page to itself."""
    return EdgeSettings(
        listen=Address("0.0.0.0", PREFERRED["edge"]),  # noqa: S104  # who may reach it, the network of containers says
        admin=Address("127.0.0.1", PREFERRED["edge_admin"]),
        services={service: [Address(service, PREFERRED[service])] for service in SERVICES},
        doors=[Address("inference", PREFERRED[DOORS])],
        token_check=TOKEN_CHECK,
    )


def main(file: str) -> None:
    """Renders and writes, for anybody to read: there is no secret in it."""
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_edge(image_settings()), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
