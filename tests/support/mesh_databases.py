"""Ways into the databases of a running mesh, for tests that check what services keep."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from services.launcher.keys import find_databases
from services.launcher.layout import DataDir, read_state


def service_url(data_dir: Path, service: str, role: str) -> str:
    """Gives the address of a service's database as one of its roles."""
    data = DataDir(data_dir)
    place = f"postgresql://postgres@127.0.0.1:{read_state(data)['ports']['postgres']}/postgres"
    return find_databases(data, place, {}).url(service, role)


@asynccontextmanager
async def connected(data_dir: Path, service: str) -> AsyncIterator[asyncpg.Connection]:
    """Opens a service's database as its maintenance role, which sees all tenants."""
    connection = await asyncpg.connect(service_url(data_dir, service, "maintenance"))
    try:
        yield connection
    finally:
        await connection.close()
