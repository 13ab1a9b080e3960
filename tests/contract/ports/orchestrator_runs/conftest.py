"""Where the suites of the ports of runs are tried: on the fake, and on real Postgres."""

import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio

from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import TenantId
from services.meshkit.crypto.kek_file import KekFile, create_kek_file
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.sql.data_keys import SqlDataKeys
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import DatabaseUrls, provision
from services.orchestrator.engine.journal import JournalCodec
from services.orchestrator.storage.run_store import SqlRunStore
from tests.support.known_tenants import KnownTenants
from tests.support.run_places import (
    IDS,
    InMemory,
    InPostgres,
    Place,
    Store,
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def urls(postgres: str) -> DatabaseUrls:
    made = await provision(postgres, f"comitia_orchestrator_{secrets.token_hex(4)}")
    await migrate("services.orchestrator", made.migrator)
    return made


@pytest.fixture(params=["memory", "postgres"])
def backend(request: pytest.FixtureRequest) -> DatabaseUrls | None:
    """The database to use, None for the fake."""
    return None if request.param == "memory" else request.getfixturevalue("urls")


@pytest_asyncio.fixture(loop_scope="module")
async def place(backend: DatabaseUrls | None, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    if backend is None:
        yield InMemory()
        return
    kek: Path = tmp_path_factory.getbasetemp() / "kek"
    with suppress(FileExistsError):
        create_kek_file(kek)
    async with (
        sql_engine(backend.app, pool_size=3) as app,
        sql_engine(backend.maintenance, pool_size=2) as maintenance,
        sql_engine(backend.migrator, pool_size=1) as migrator,
    ):
        keys = KeyRing(SqlDataKeys(app), await KekFile.read(kek), clock=SystemClock(), ids=IDS)
        store = SqlRunStore(
            app=app, commits=app, maintenance=maintenance, codec=JournalCodec(keys), tenants=KnownTenants()
        )
        found = InPostgres(store, maintenance, migrator)
        await found.begin()
        async with store.running():
            yield found


@pytest.fixture
def store(place: Place) -> Store:
    return place.store


@pytest.fixture
def tenant() -> TenantId:
    """A tenant of the test's own, for the database lives longer than the test."""
    return TenantId(uuid4())
