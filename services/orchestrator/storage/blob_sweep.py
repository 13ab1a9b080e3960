"""Deletes from the object store what nothing names: what a crash left behind, and what was erased or archived."""

import re
from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.blobs.store import BlobStore, StoredBlob
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import to_uuid
from services.meshkit.core.tenant import ErasureAction, ErasureStep
from services.meshkit.sql.scope import driver_scope
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger
from services.orchestrator.engine.journal import BLOBS, blobs_of
from services.orchestrator.storage.run_archive import ARCHIVE, archive_of
from services.orchestrator.usecases.keeping_round import keeping_round

_PLACE: Final = r"tenant_[0-9a-z]{26}/(?P<run>run_[0-9a-z]{26})"
_DRAFT: Final = r"(?P<draft>\.[0-9a-f]{8}\.draft)?"
#: Names of ours below a folder, and the statement that gives those of them that are in use.
_FOLDERS: Final = {
    BLOBS: (
        re.compile(rf"{BLOBS}{_PLACE}/(?P<key>[0-9a-f]{{64}}){_DRAFT}"),
        """SELECT seen.place FROM unnest($1::bigint[], $2::uuid[], $3::text[]) AS seen (place, run_id, digest)
        JOIN journal_blob AS blob ON blob.run_id = seen.run_id AND blob.digest = decode(seen.digest, 'hex')""",
    ),
    ARCHIVE: (
        re.compile(rf"{ARCHIVE}{_PLACE}/(?P<key>[0-9]{{6}}){_DRAFT}"),
        """SELECT seen.place FROM unnest($1::bigint[], $2::uuid[], $3::text[]) AS seen (place, run_id, part)
        JOIN run ON run.run_id = seen.run_id AND seen.part::integer < run.archive_parts""",
    ),
}

log = logger(__name__)


class SweepBlobs:
    """A `Background` of the orchestrator; replicas that do it at once harm nobody.

    A commit puts an object, at every try anew, and names it a moment later. One that is old and that nothing names will
    not be named any more.

    Args:
        engine: of the `maintenance` role.
        grace: age from which an object that nothing names is deleted; longer than any commit takes.
        pause: between two rounds.
    """

    def __init__(
        self, engine: AsyncEngine, store: BlobStore, *, clock: Clock, grace: timedelta, pause: timedelta
    ) -> None:
        self._engine = engine
        self._store = store
        self._clock = clock
        self._grace = grace
        self._pause = pause.total_seconds()

    async def __call__(self) -> None:
        """Sweeps until cancelled."""
        while True:
            await self._clock.sleep(self._pause)
            await keeping_round("blobs", self.sweep, fault="the object store is not swept right now")

    async def sweep(self) -> int:
        """Deletes what is old and not named; says how many objects that were. Raises: MeshError."""
        until = self._clock.now() - self._grace
        swept = 0
        for folder in _FOLDERS:
            async for some in self._store.all(folder):
                unnamed = await self._unnamed(folder, [blob.name for blob in some if blob.put_time < until])
                await self._store.delete(unnamed)
                swept += len(unnamed)
        if swept:
            metrics.JOURNAL_BLOBS_SWEPT.inc(swept)
            log.info("objects swept that nothing names", count=swept)
        return swept

    async def _unnamed(self, folder: str, names: Sequence[str]) -> list[str]:
        """Leaves out what something names, and what is none of ours."""
        shape, used = _FOLDERS[folder]
        ours = [match for name in names if (match := shape.fullmatch(name)) is not None and _is_run(match["run"])]
        if not ours:
            return []
        runs = [to_uuid(match["run"], "run") for match in ours]
        async with driver_scope(self._engine, None, read_only=True) as scope:
            rows = await scope.driver.fetch(used, list(range(len(ours))), runs, [match["key"] for match in ours])
        in_use = {row["place"] for row in rows}
        return [match[0] for place, match in enumerate(ours) if place not in in_use or match["draft"]]


def _is_run(name: str) -> bool:
    try:
        to_uuid(name, "run")
    except Invalid:
        return False
    return True


class TenantObjects:
    """Implements `meshkit.tenant_data.servicer.OtherStore`: what lies of a tenant in the object store."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store

    async def plan(self, tenant: TenantId) -> ErasureStep:
        """See `OtherStore.plan`."""
        return _step(sum([len(some) async for some in self._all(tenant)]))

    async def erase(self, tenant: TenantId) -> ErasureStep:
        """See `OtherStore.erase`."""
        count = 0
        async for some in self._all(tenant):
            await self._store.delete(blob.name for blob in some)
            count += len(some)
        return _step(count)

    async def _all(self, tenant: TenantId) -> AsyncGenerator[Sequence[StoredBlob]]:
        for folder in (blobs_of(tenant), archive_of(tenant)):
            async for some in self._store.all(folder):
                yield some


def _step(count: int) -> ErasureStep:
    return ErasureStep(service="orchestrator", store="objects", action=ErasureAction.DELETE, count=count)
