"""How the administrator reaches the Postgres of a mesh on this machine."""

from collections.abc import Mapping

from services.launcher.embedded.postgres import PostgresRoom
from services.launcher.errors import LauncherError
from services.launcher.keys import read_secrets
from services.launcher.layout import DataDir, read_state


def admin_url(data: DataDir, environment: Mapping[str, str]) -> str:
    """Gives the address: of the server that the user has named, else of the embedded one.

    Raises: LauncherError: there was no mesh on this directory yet.
    """
    return environment.get("COMITIA_POSTGRES_URL") or embedded_room(data).admin_url


def embedded_room(data: DataDir) -> PostgresRoom:
    """Gives where the embedded Postgres of a directory lives. Raises: LauncherError: no mesh was started there yet."""
    port = read_state(data).get("ports", {}).get("postgres")
    if port is None:
        raise LauncherError(f"no mesh was started on {data.root} yet")
    return PostgresRoom(
        directory=data.of("postgres"),
        port=port,
        log=data.log("postgres"),
        password=read_secrets(data, ("postgres",))["postgres"],
    )
