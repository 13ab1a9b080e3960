"""Runs a copied cluster until it is what it was at a moment, and keeps it running while somebody looks at it."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, Final

from services.launcher.backups import manifest as manifests
from services.launcher.backups.packing import unpack
from services.launcher.backups.wal import recovering, refuse_other_account
from services.launcher.children import Supervisor
from services.launcher.embedded.postgres import PostgresRoom, prepare_postgres
from services.launcher.environment import ordinary_environment
from services.launcher.errors import LauncherError
from services.launcher.keys import read_secrets
from services.launcher.layout import DataDir
from services.launcher.options import Report
from services.launcher.ports import PortClaims, choose
from services.meshkit.core.clock import SystemClock

#: Reading a log of days takes hours.
_RECOVERY_SECONDS: Final = 7 * 24 * 3600.0
#: In Postgres' own log, where it says how it ended.
_TOO_EARLY_AN_END: Final = "recovery ended before configured recovery target was reached"
_LAST_COMMIT: Final = "last completed transaction was at log time "
_DAMAGED: Final = "the archived segment "
_REACHED: Final = "SELECT pg_last_xact_replay_timestamp() AS time, pg_last_wal_replay_lsn()::text AS position"


def unpack_cluster(backup: Path, data: DataDir) -> None:
    """Puts the copied cluster where Postgres expects it, ready to recover."""
    folder = data.of("postgres")
    unpack(backup / manifests.BASE, folder)
    unpack(backup / manifests.WAL, folder / "pg_wal")
    (folder / "recovery.signal").touch(mode=0o600)


@asynccontextmanager
async def recovered(
    data: DataDir, *, archive: Path | None, until: datetime | None, environment: Mapping[str, str], report: Report
) -> AsyncGenerator[PostgresRoom]:
    """Recovers, and keeps Postgres running, for nobody else, while the block runs.

    Raises: LauncherError: the log ends before the moment, cannot be read, or the password is another cluster's.
    """
    supervisor = Supervisor(clock=SystemClock(), dice=Random(), report=report, changed=_nobody_asks)
    with PortClaims() as claims:
        port = choose(remembered={}, asked={}, claims=claims, dice=Random(), random_only=True)["postgres"]
        room = PostgresRoom(
            directory=data.of("postgres"),
            port=port,
            log=data.log("postgres"),
            password=read_secrets(data, ("postgres",))["postgres"],
            settings=recovering(archive, until),
        )
        if archive is not None:
            refuse_other_account(room)
        try:
            spec = await prepare_postgres(room, ordinary_environment(environment))
            try:
                await supervisor.start(spec, healthy_seconds=_RECOVERY_SECONDS)
            except LauncherError as failure:
                raise LauncherError(_reason(room.log, until) or failure.sentence) from failure
            yield room
        finally:
            await supervisor.close()
    # What only a recovery needs is not left in the settings.
    await prepare_postgres(replace(room, settings={}), ordinary_environment(environment))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """How far a recovery came."""

    #: Of the last transaction; None when there was none to find after the backup.
    time: datetime | None
    #: After the last record, `0/2000028`.
    position: str


async def reached(room: PostgresRoom) -> Reached:
    """Says how far the recovery came.

    Raises: LauncherError: the password is another cluster's, or Postgres does not answer.
    """
    import asyncpg

    try:
        connection: Any = await asyncpg.connect(room.admin_url)
        try:
            row = await connection.fetchrow(_REACHED)
        finally:
            await connection.close()
    except asyncpg.InvalidPasswordError as cause:
        raise LauncherError(
            f"the keys are not those of this backup: Postgres refuses the password ({cause})"
        ) from cause
    except (OSError, asyncpg.PostgresError) as cause:
        raise LauncherError(f"the restored Postgres does not answer ({cause or type(cause).__name__})") from cause
    return Reached(time=row["time"], position=row["position"])


def _reason(log: Path, until: datetime | None) -> str:
    """Reads out of the log why there was no recovery; empty when it says nothing that we know."""
    said = log.read_text(errors="replace")
    damaged = next((line for line in said.splitlines() if line.startswith(_DAMAGED)), "")
    if damaged:
        return f"the archive is damaged: {damaged}"
    if _TOO_EARLY_AN_END not in said or until is None:
        return ""
    last = said.rpartition(_LAST_COMMIT)[2].splitlines()[0] if _LAST_COMMIT in said else ""
    ends = f"it ends at {last}" if last else "it has nothing after the backup"
    return f"the log does not reach {until.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC: {ends}"


def _nobody_asks() -> None:
    """Nobody follows the state of this one child."""
