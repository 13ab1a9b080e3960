"""One suite for the store of objects: a directory, and an object store."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from obstore.store import LocalStore, MemoryStore

from services.meshkit.blobs.bucket import BlobBucket
from services.meshkit.blobs.directory import BlobDirectory
from services.meshkit.blobs.store import BlobMissing, BlobStore, BlobStoreAway, blob_store

STORES: dict[str, Callable[[Path], BlobStore]] = {
    "directory": BlobDirectory,
    "memory bucket": lambda _: BlobBucket(MemoryStore()),
    "bucket": lambda folder: BlobBucket(LocalStore(folder, mkdir=True)),
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return STORES[request.param](tmp_path / "store")


async def names(store: BlobStore, prefix: str) -> list[str]:
    return sorted([blob.name async for some in store.all(prefix) for blob in some])


async def test_what_is_put_comes_back_and_the_last_one_counts(store: BlobStore) -> None:
    for content in (b"first", b"", bytes(300_000)):
        await store.put("a/b/one", content)
        assert await store.get("a/b/one") == content


async def test_what_is_not_there_is_missing(store: BlobStore) -> None:
    await store.put("a/one", b"1")
    for name in ("a/two", "b/one"):
        with pytest.raises(BlobMissing):
            await store.get(name)


async def test_a_list_shows_what_lies_below_a_prefix_and_nothing_else(store: BlobStore) -> None:
    assert await names(store, "blobs/") == []
    for name in ("blobs/t1/r1/x", "blobs/t1/r2/y", "blobs/t2/r3/z", "archive/t1/r1"):
        await store.put(name, b"content")
    assert await names(store, "blobs/") == ["blobs/t1/r1/x", "blobs/t1/r2/y", "blobs/t2/r3/z"]
    assert await names(store, "blobs/t1/") == ["blobs/t1/r1/x", "blobs/t1/r2/y"]
    async for some in store.all("archive/"):
        for blob in some:
            assert (blob.name, blob.size) == ("archive/t1/r1", 7)
            assert abs(datetime.now(UTC) - blob.put_time) < timedelta(minutes=5)


async def test_a_long_list_comes_whole(store: BlobStore) -> None:
    await asyncio.gather(*(store.put(f"many/{number % 7}/{number}", b"") for number in range(1_003)))
    assert len(await names(store, "many/")) == 1_003


async def test_what_is_deleted_is_gone_and_deleting_it_again_harms_nobody(store: BlobStore) -> None:
    for name in ("a/b/one", "a/b/two", "a/c/three"):
        await store.put(name, b"content")
    for _ in range(2):
        await store.delete(["a/b/one", "a/c/three"])
    assert await names(store, "a/") == ["a/b/two"]
    await store.put("a/c/three", b"again")
    assert await store.get("a/c/three") == b"again"


async def test_files_are_their_owners_alone(tmp_path: Path) -> None:
    store = blob_store(str(tmp_path / "store"))
    await store.put("a/one", b"content")
    for path in (tmp_path / "store").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0


async def test_a_directory_that_cannot_be_written_is_away(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    store = BlobDirectory(tmp_path / "file")
    with pytest.raises(BlobStoreAway):
        await store.put("a/one", b"content")


def test_an_address_opens_an_object_store(tmp_path: Path) -> None:
    assert isinstance(blob_store(tmp_path.as_uri()), BlobBucket)
    assert isinstance(blob_store(str(tmp_path)), BlobDirectory)
