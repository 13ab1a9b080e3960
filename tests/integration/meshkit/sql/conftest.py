"""A small service of its own, `ledgerette`, whose migrations are written into a temporary package."""

import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.sql.engine import sql_engine
from services.meshkit.sql.migrations import migrate
from services.meshkit.sql.roles import DatabaseUrls
from tests.integration.conftest import MakeDatabase

FIRST = '''
    """Makes the tables."""

    from alembic.operations import Operations

    from services.meshkit.sql.audit import create_audit, drop_audit
    from services.meshkit.sql.data_keys import count_messages, create_data_keys
    from services.meshkit.sql.outbox import create_outbox
    from services.meshkit.sql.request_ids import create_request_ids
    from services.meshkit.sql.rls import tenant_table, untenanted_table

    revision = "0001"
    down_revision = None


    def upgrade(op: Operations) -> None:
        op.execute("CREATE TABLE note (id uuid PRIMARY KEY, tenant_id uuid NOT NULL, words text NOT NULL)")
        tenant_table(op, "note")
        op.execute("CREATE TABLE price (model text PRIMARY KEY, nano_usd bigint NOT NULL)")
        untenanted_table(op, "price", reason="public prices, the same for everyone's use")
        create_outbox(op)
        create_request_ids(op)
        create_data_keys(op)
        count_messages(op)
        create_audit(op)


    def downgrade(op: Operations) -> None:
        drop_audit(op)
        for table in ("data_key", "request_id", "outbox", "price", "note"):
            op.drop_table(table)
'''
SECOND = '''
    """Adds a column, and fills it for every tenant."""

    from alembic.operations import Operations

    revision = "0002"
    down_revision = "0001"


    def upgrade(op: Operations) -> None:
        op.execute("ALTER TABLE note ADD length int NOT NULL DEFAULT 0")
        op.execute("UPDATE note SET length = length(words)")


    def downgrade(op: Operations) -> None:
        op.drop_column("note", "length")
'''

ONE_TRIPS = '''
    """Its transactions of one round trip."""

    from services.meshkit.sql.audit_store import AUDIT_PAGE
    from services.meshkit.sql.one_trip import OneTrip

    ADD_TWO = OneTrip(
        name="add_two_notes",
        arguments=("uuid", "uuid[]", "text"),
        returns="bigint",
        body="""INSERT INTO note (id, tenant_id, words) SELECT id, $1, $3 FROM unnest($2[:1]) AS id;
            INSERT INTO note (id, tenant_id, words) SELECT id, $1, $3 FROM unnest($2[2:]) AS id;
            RETURN (SELECT count(*) FROM note);""",
    )
    WORDS = OneTrip(
        name="words_of_notes",
        arguments=(),
        returns="TABLE (words text)",
        body="RETURN QUERY SELECT words FROM note ORDER BY words;",
    )
    ONE_TRIPS = (ADD_TWO, WORDS, AUDIT_PAGE)
'''


@pytest.fixture
def ledgerette(tmp_path: Path) -> Iterator[str]:
    """Gives the name of a service package with two migrations."""
    versions = tmp_path / "ledgerette" / "storage" / "migrations" / "versions"
    versions.mkdir(parents=True)
    (tmp_path / "ledgerette" / "__init__.py").touch()
    (versions / "0001_pre_make_tables.py").write_text(dedent(FIRST))
    (versions / "0002_post_add_length.py").write_text(dedent(SECOND))
    (tmp_path / "ledgerette" / "storage" / "one_trips.py").write_text(dedent(ONE_TRIPS))
    sys.path.insert(0, str(tmp_path))
    yield "ledgerette"
    sys.path.remove(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "ledgerette"]:
        del sys.modules[name]


@dataclass(frozen=True, slots=True)
class Engines:
    """One migrated database, as requests and as background work see it."""

    app: AsyncEngine
    maintenance: AsyncEngine
    urls: DatabaseUrls


@pytest.fixture
async def engines(make_database: MakeDatabase, ledgerette: str) -> AsyncIterator[Engines]:
    urls = await make_database("ledgerette")
    await migrate(ledgerette, urls.migrator, to="0001")
    async with sql_engine(urls.app, pool_size=2) as app, sql_engine(urls.maintenance, pool_size=2) as maintenance:
        yield Engines(app, maintenance, urls)
