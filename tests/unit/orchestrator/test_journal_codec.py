"""Rows of the journal: packed by hand as protobuf lays them out, big facts beside them, and newer ones refused."""

from pathlib import Path
from uuid import UUID

import pytest

from comitia.orchestrator.v1 import journal_pb2
from services.meshkit.blobs.directory import BlobDirectory
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.crypto.commitments import COMMITMENT_BYTES, commit
from services.meshkit.crypto.kek_file import KekFile
from services.meshkit.crypto.keyring import KeyRing
from services.meshkit.testing.fake_clock import FakeClock
from services.orchestrator.domain.errors import RunDiverged
from services.orchestrator.engine.facts import Replay
from services.orchestrator.engine.journal import JournalBlobs, JournalCodec, JournalUnknown, NoBlobStore
from services.orchestrator.engine.run import OwnedRun, RunWrite, shard_of
from tests.support.data_keys import MemoryDataKeys
from tests.support.sessions import a_start

TENANT = TenantId(UUID(int=1))
RUN_ID = "run_01jd0000000000000000000000"
RUN = OwnedRun(tenant=TENANT, run_id=RUN_ID, grant_id="grant_x", shard=shard_of(RUN_ID))
INLINE = 1_000


@pytest.fixture
async def keys() -> KeyRing:
    clock = FakeClock()
    ring = KeyRing(MemoryDataKeys(clock.now), KekFile({b"k" * 8: b"s" * 32}), clock=clock, ids=SystemIds())
    await ring.load(TENANT)
    return ring


def a_write(*sizes: int, first_sequence: int = 7) -> RunWrite:
    """Makes a write of facts with so many bytes in them."""
    entries = [journal_pb2.JournalEntry(path=f"nodes/{place}") for place in range(len(sizes))]
    for entry, size in zip(entries, sizes, strict=True):
        entry.call_answered.response = b"x" * size
    return RunWrite(run=RUN, first_sequence=first_sequence, entries=entries, view=None)


@pytest.mark.parametrize("sizes", [(0,), (10, 200, 20_000), (1,) * 300, (INLINE * 2, 5, INLINE * 2)])
async def test_a_row_is_opened_as_it_was_sealed_and_committed_to(
    keys: KeyRing, tmp_path: Path, sizes: tuple[int, ...]
) -> None:
    codec = JournalCodec(keys, JournalBlobs(store=BlobDirectory(tmp_path), most_inline=INLINE))
    write = a_write(*sizes)
    [row] = codec.seal([write])
    await codec.put(row.blobs)
    assert [blob.sequence - 7 for blob in row.blobs] == [place for place, size in enumerate(sizes) if size > INLINE]
    opened = await codec.open(TENANT, RUN_ID, 7, row.payload)
    assert list(opened.entries) == write.entries
    raw = await codec.open_bytes(TENANT, RUN_ID, 7, row.payload)
    commitments = [row.commitments[at : at + COMMITMENT_BYTES] for at in range(0, len(row.commitments), 32)]
    assert [commit(salt, entry) for salt, entry in zip(raw.salts, raw.entries, strict=True)] == commitments
    assert row.size == len(row.payload) + sum(len(blob.content) for blob in row.blobs)


async def test_a_big_fact_stays_in_its_row_without_an_object_store_and_is_missed_without_its_own(
    keys: KeyRing, tmp_path: Path
) -> None:
    alone = JournalCodec(keys)
    assert [tuple(row.blobs) for row in alone.seal([a_write(INLINE * 2)])] == [()]
    with_store = JournalCodec(keys, JournalBlobs(store=BlobDirectory(tmp_path), most_inline=INLINE))
    [row] = with_store.seal([a_write(INLINE * 2)])
    with pytest.raises(NoBlobStore):
        await alone.open(TENANT, RUN_ID, 7, row.payload)


async def test_the_same_fact_has_the_same_name_for_its_tenant_and_another_for_others(keys: KeyRing) -> None:
    other = TenantId(UUID(int=2))
    await keys.load(other)
    assert keys.digest_sync(TENANT, b"fact") == keys.digest_sync(TENANT, b"fact")
    names = {keys.digest_sync(TENANT, b"fact"), keys.digest_sync(TENANT, b"fact!"), keys.digest_sync(other, b"fact")}
    assert {len(name) for name in names} == {32}
    assert len(names) == 3


async def test_a_row_of_a_newer_release_is_refused_and_not_guessed(keys: KeyRing) -> None:
    codec = JournalCodec(keys)
    newer = journal_pb2.JournalRow(version=1).SerializeToString()
    sealed = await keys.seal(TENANT, newer, aad=f"{RUN_ID}/7".encode())
    with pytest.raises(JournalUnknown):
        await codec.open(TENANT, RUN_ID, 7, sealed)
    with pytest.raises(JournalUnknown):
        await codec.open_bytes(TENANT, RUN_ID, 7, sealed)


def test_a_fact_that_only_a_newer_release_knows_strands_its_run() -> None:
    replay = Replay(RUN_ID)
    replay.feed(journal_pb2.JournalEntry(run_started=a_start()))
    # Field 500 of JournalEntry: a kind of fact that this release has not.
    unknown = journal_pb2.JournalEntry.FromString(b"\xa2\x1f\x00")
    assert unknown.WhichOneof("fact") is None
    with pytest.raises(RunDiverged):
        replay.feed(unknown)
