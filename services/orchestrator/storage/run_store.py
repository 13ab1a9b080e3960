"""Runs in Postgres, by what is asked of it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Self

from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.core.tenant import KnowsTenants
from services.orchestrator.engine.journal import JournalCodec
from services.orchestrator.storage.command_inbox import SqlInbox
from services.orchestrator.storage.run_finder import SqlRunFinder
from services.orchestrator.storage.run_journal import SqlJournal
from services.orchestrator.storage.run_starts import SqlStarts
from services.orchestrator.storage.shard_leases import SqlLeases


class SqlRunStore:
    """Implements `engine.ports.RunStore`; runs are begun while it is `running`.

    Args:
        commits: of the same role as `app`, for ticks alone: they wait for no connection that starts and reads have.
    """

    def __init__(
        self,
        *,
        app: AsyncEngine,
        commits: AsyncEngine,
        maintenance: AsyncEngine,
        codec: JournalCodec,
        tenants: KnowsTenants,
    ) -> None:
        self.journal = SqlJournal(app, commits=commits, codec=codec)
        self.starts = SqlStarts(app, journal=self.journal, codec=codec, tenants=tenants)
        self.leases = SqlLeases(maintenance)
        self.finder = SqlRunFinder(maintenance)
        self.inbox = SqlInbox(app, maintenance=maintenance, codec=codec)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Self]:
        """Gives the store while the block runs."""
        async with self.starts.running():
            yield self
