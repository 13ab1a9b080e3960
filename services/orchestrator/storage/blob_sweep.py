"""Deletes from the object store what no journal names: what a crash left behind, and what was erased or archived."""

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from services.meshkit.blobs.store import BlobStore, StoredBlob
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Invalid, MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import to_uuid
from services.meshkit.core.tenant import ErasureAction, ErasureStep
from services.meshkit.sql.scope import driver_scope
from services.meshkit.telemetry import metrics
from services.meshkit.telemetry.logs import logger
from services.orchestrator.engine.journal import BLOBS, blobs_of

_NAME: Final = re.compile(r"blobs/tenant_[0-9a-z]{26}/(run_[0-9a-z]{26})/([0-9a-f]{64})(\.[0-9a-f]{8}\.draft)?")
_NAMED: Final = """
    SELECT blob.run_id, blob.digest FROM unnest($1::uuid[], $2::bytea[]) AS seen (run_id, digest)
    JOIN journal_blob AS blob ON blob.run_id = seen.run_id AND blob.digest = seen.digest"""

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
            try:
                await self.sweep()
            except MeshError as error:
                metrics.JOURNAL_KEEPING_FAILED.labels("blobs").inc()
                log.warning("the object store is not swept right now", cause=error.message)

    async def sweep(self) -> int:
        """Deletes what is old and not named; says how many objects that were. Raises: MeshError."""
        until = self._clock.now() - self._grace
        swept = 0
        async for some in self._store.all(BLOBS):
            unnamed = await self._unnamed([blob for blob in some if blob.put_time < until])
            await self._store.delete(unnamed)
            swept += len(unnamed)
        if swept:
            metrics.JOURNAL_BLOBS_SWEPT.inc(swept)
            log.info("objects swept that no journal names", count=swept)
        return swept

    async def _unnamed(self, blobs: Sequence[StoredBlob]) -> list[str]:
        """Leaves out what a journal names, and what is none of ours."""
        known = {blob.name: place for blob in blobs if (place := _place_of(blob.name)) is not None}
        if not known:
            return []
        runs, digests = zip(*known.values(), strict=True)
        async with driver_scope(self._engine, None, read_only=True) as scope:
            rows = await scope.driver.fetch(_NAMED, runs, digests)
        named = {(row["run_id"], row["digest"]) for row in rows}
        return [name for name, place in known.items() if place not in named or name.endswith(".draft")]


def _place_of(name: str) -> tuple[object, bytes] | None:
    """Gives run and digest of an object; None for what is none of ours."""
    match = _NAME.fullmatch(name)
    try:
        return None if match is None else (to_uuid(match[1], "run"), bytes.fromhex(match[2]))
    except Invalid:
        return None


class TenantBlobs:
    """Implements `meshkit.tenant_data.servicer.OtherStore`: what lies of a tenant below some folders of the store."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store

    async def plan(self, tenant: TenantId) -> ErasureStep:
        """See `OtherStore.plan`."""
        return _step(sum([len(some) async for some in self._store.all(blobs_of(tenant))]))

    async def erase(self, tenant: TenantId) -> ErasureStep:
        """See `OtherStore.erase`."""
        count = 0
        async for some in self._store.all(blobs_of(tenant)):
            await self._store.delete(blob.name for blob in some)
            count += len(some)
        return _step(count)


def _step(count: int) -> ErasureStep:
    return ErasureStep(service="orchestrator", store="objects", action=ErasureAction.DELETE, count=count)
