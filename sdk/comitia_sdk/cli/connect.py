"""The client of a command: where the mesh is and who calls."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comitia_sdk.sync import Client


@contextmanager
def client() -> Iterator["Client"]:
    """Opens a client from the environment, or to the mesh on this machine."""
    from comitia_sdk.sync import Client

    with Client() as opened:
        yield opened
