"""Makes and migrates the seven databases from a process of its own.

    COMITIA_POSTGRES_URL=postgresql://admin@host/postgres python -m services.launcher.migrate

Names begin with `COMITIA_DATABASE_PREFIX`, else `comitia`. The passwords of the roles come from the data directory and
are made there where missing. The launcher runs it at each start with new migrations, because SQLAlchemy and alembic
would double the launcher's own memory.
"""

import argparse
import asyncio
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Final

from services.launcher.databases import make_databases, report_line, wait_for_server
from services.launcher.errors import LauncherError
from services.launcher.keys import find_databases
from services.launcher.layout import find_data_dir, prepare
from services.launcher.mesh_databases import MeshDatabases
from services.meshkit.core.imports import for_good

#: How far the migrations of each phase go.
_TARGETS: Final = {"expand": "expand", "contract": "head"}


def main(arguments: list[str] | None = None) -> int:
    """Runs from the command line. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m services.launcher.migrate", description="Makes and migrates the seven databases."
    )
    parser.add_argument("--data-dir", type=Path, help="default: COMITIA_DATA_DIR, else ~/.comitia")
    parser.add_argument("--wait-seconds", type=float, default=0.0, help="wait this long for the server; default 0")
    parser.add_argument(
        "--phase",
        choices=("expand", "contract"),
        default="contract",
        help="expand: only what a new release needs, before its code starts; contract: all, once no older code runs",
    )
    chosen = parser.parse_args(arguments)
    admin_url = os.environ.get("COMITIA_POSTGRES_URL")
    if not admin_url:
        print("COMITIA_POSTGRES_URL is not set; give the address of an administrator of Postgres", file=sys.stderr)
        return 2
    data = find_data_dir(chosen.data_dir, os.environ)
    try:
        prepare(data)
        databases = find_databases(data, admin_url, os.environ)
        asyncio.run(_make(databases, chosen.wait_seconds, _TARGETS[chosen.phase]))
    except LauncherError as failure:
        print(failure.sentence, file=sys.stderr)
        return 1
    return 0


async def _make(databases: MeshDatabases, wait_seconds: float, to: str) -> None:
    with for_good():
        import_module("services.meshkit.sql.migrations")  # takes a second, in which the server may still be starting
    await wait_for_server(databases.admin_url, wait_seconds)
    await make_databases(databases, _print, to=to)


def _print(service: str, seconds: float) -> None:
    print(report_line(service, seconds), flush=True)


if __name__ == "__main__":
    sys.exit(main())
