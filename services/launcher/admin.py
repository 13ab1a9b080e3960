"""How the administrator reaches the Postgres of a mesh on this machine."""

from collections.abc import Mapping
from typing import Final

from services.launcher.embedded.postgres import PostgresRoom
from services.launcher.errors import LauncherError
from services.launcher.keys import read_secrets
from services.launcher.layout import DataDir, read_state, write_state
from services.launcher.mesh_databases import PREFIX_VARIABLE, prefix_from

_PREFIX_STATE: Final = "database_prefix"


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


def remember_prefix(data: DataDir, prefix: str) -> None:
    """Keeps what the databases of the embedded Postgres begin with, for with another prefix empty ones would be made.

    Raises: LauncherError: they begin otherwise.
    """
    state = read_state(data)
    known = state.get(_PREFIX_STATE, prefix)
    if known != prefix:
        raise LauncherError(
            f"the databases of this mesh begin with {known!r}, and {PREFIX_VARIABLE} says {prefix!r}; "
            "start it as before, or on a data directory of its own"
        )
    write_state(data, {**state, _PREFIX_STATE: prefix})


def remembered_prefix(data: DataDir, environment: Mapping[str, str]) -> str:
    """Gives what the databases of the embedded Postgres begin with; before any start, what they would."""
    return read_state(data).get(_PREFIX_STATE) or prefix_from(environment)
