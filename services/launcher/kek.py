"""Replaces the key that wraps the tenants' data keys, shows how far that is, and removes what is no longer needed."""

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.launcher.admin import admin_url
from services.launcher.errors import LauncherError
from services.launcher.keys import find_databases
from services.launcher.layout import find_data_dir, holder
from services.launcher.mesh_databases import MeshDatabases

#: Services that seal payloads, and the gateway, which wraps its signing keys likewise.
SEALING: Final = ("orchestrator", "inference", "memory", "tools", "gateway")
#: A data key wrapped by the key before may be on its way to the database for this long, and much less.
_RETIRE_SECONDS: Final = 600.0
_CONNECT_SECONDS: Final = 5.0
#: A file's wrapping begins with its version and 8 bytes of the key's id; all others begin otherwise.
_COUNT: Final = """
    SELECT CASE get_byte(wrapped, 0) WHEN 1 THEN encode(substring(wrapped, 2, 8), 'hex') ELSE 'a key service' END,
           count(*)
      FROM data_key WHERE wrapped IS NOT NULL GROUP BY 1"""
_COUNT_SIGNING_KEYS: Final = """
    SELECT CASE get_byte(sealed, 0) WHEN 1 THEN encode(substring(sealed, 2, 8), 'hex') ELSE 'a key service' END,
           count(*)
      FROM signing_key GROUP BY 1"""


@dataclass(frozen=True, slots=True, kw_only=True)
class KekUse:
    """One key-encryption key, and how many data keys it wraps."""

    #: 16 hexadecimal digits, or `a key service`.
    id: str
    #: New data keys are wrapped by it.
    current: bool
    #: By service.
    data_keys: dict[str, int]


def rotate_kek(data_dir: Path | None = None) -> str:
    """Puts a new key in front; returns its id. A mesh that runs takes it up, and wraps its data keys anew.

    Raises: LauncherError: there is no key file, or it is damaged.
    """
    from services.meshkit.crypto.errors import KekFileUnsafe
    from services.meshkit.crypto.kek_file import add_kek

    try:
        return add_kek(find_data_dir(data_dir, os.environ).kek)
    except KekFileUnsafe as cause:
        raise LauncherError(cause.message) from cause


def kek_status(data_dir: Path | None = None) -> tuple[KekUse, ...]:
    """Tells which key wraps how many data keys; the one that wraps new ones is first.

    Raises: LauncherError: no mesh runs on the directory, or its database does not answer.
    """
    from services.meshkit.crypto.errors import KekFileUnsafe
    from services.meshkit.crypto.kek_file import kek_ids

    data = find_data_dir(data_dir, os.environ)
    if holder(data) is None:
        raise LauncherError("no mesh is running; start it with `comitia up --detach`, for its databases are asked")
    try:
        ids = kek_ids(data.kek)
    except KekFileUnsafe as cause:
        raise LauncherError(cause.message) from cause
    counted = asyncio.run(count_data_keys(find_databases(data, admin_url(data, os.environ), os.environ)))
    unknown = {kek for counts in counted.values() for kek in counts} - set(ids)
    return tuple(
        KekUse(
            id=kek,
            current=kek == ids[0],
            data_keys={service: counts.get(kek, 0) for service, counts in counted.items()},
        )
        for kek in (*ids, *sorted(unknown))
    )


def retire_keks(data_dir: Path | None = None) -> list[str]:
    """Removes the keys that wrap nothing any more; returns their ids.

    Raises: LauncherError: one still wraps something, or the newest came only just now; and as `kek_status`.
    """
    from services.meshkit.crypto.kek_file import drop_old_keks

    data = find_data_dir(data_dir, os.environ)
    used = kek_status(data_dir)
    for kek in used[1:]:
        left = sum(kek.data_keys.values())
        if left and kek.id != "a key service":
            raise LauncherError(f"the key {kek.id} still wraps {left} data keys; the mesh wraps them anew, look again")
    age = time.time() - data.kek.stat().st_mtime
    if len(used) > 1 and age < _RETIRE_SECONDS:
        wait = int(_RETIRE_SECONDS - age) // 60 + 1
        raise LauncherError(f"the newest key came just now; data keys may be on their way. Again in {wait} min")
    return drop_old_keks(data.kek)


async def count_data_keys(databases: MeshDatabases) -> dict[str, dict[str, int]]:
    """Counts, by service, what each key wraps. Raises: LauncherError: a database does not answer."""
    urls = {service: databases.url(service, "maintenance") for service in SEALING}
    return {service: await _count_of(url, service) for service, url in urls.items()}


async def _count_of(url: str, service: str) -> dict[str, int]:
    import asyncpg

    try:
        connection: asyncpg.Connection[Any] = await asyncpg.connect(url, timeout=_CONNECT_SECONDS)
    except (OSError, TimeoutError, asyncpg.PostgresError) as cause:
        raise LauncherError(f"the database of {service} does not answer ({type(cause).__name__})") from cause
    counting = _COUNT_SIGNING_KEYS if service == "gateway" else _COUNT
    try:
        return {row[0]: row[1] for row in await connection.fetch(counting)}
    finally:
        await connection.close()
