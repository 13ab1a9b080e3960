"""Puts together what looks through the journals."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

from services.meshkit.blobs.store import blob_store
from services.meshkit.checking import STATEMENT_SECONDS
from services.meshkit.core.checked import Checked
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.ids import SystemIds
from services.meshkit.crypto.key_service import key_wrapper
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.sql.data_keys import SqlDataKeys
from services.meshkit.sql.engine import sql_engine
from services.orchestrator.engine.journal import JournalBlobs, JournalCodec
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.storage.record_store import SqlRecordStore
from services.orchestrator.storage.run_archive import SqlRunArchive
from services.orchestrator.storage.run_finder import SqlRunFinder
from services.orchestrator.usecases.check_runs import CheckRuns

#: Runs that are replayed unless somebody says otherwise.
MOST_RUNS: Final = 200


async def check_runs(settings: OrchestratorSettings, *, most: int) -> Sequence[Checked]:
    """Raises: Unavailable: the database is away."""
    async with _checking(settings) as check:
        return await check(most=most)


@asynccontextmanager
async def _checking(settings: OrchestratorSettings) -> AsyncGenerator[CheckRuns]:
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        opened = partial(sql_engine, pool_size=1, command_timeout_seconds=STATEMENT_SECONDS)
        app = await enter(opened(settings.database_url.get_secret_value()))
        maintenance = await enter(opened(settings.maintenance_database_url.get_secret_value()))
        wrapper = await enter(key_wrapper(settings, clock=clock))
        keys = KeyRing(SqlDataKeys(app), wrapper, clock=clock, ids=SystemIds())
        objects = blob_store(settings.object_store)
        codec = JournalCodec(keys, JournalBlobs(store=objects, most_inline=settings.max_inline_bytes))
        archive = SqlRunArchive(maintenance=maintenance, keys=keys, objects=objects)
        records = SqlRecordStore(app=app, codec=codec, archive=archive)
        yield CheckRuns(records=records, runs=SqlRunFinder(maintenance))
