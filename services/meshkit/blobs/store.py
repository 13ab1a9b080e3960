"""What keeps objects by name, and how one is opened at the place that a setting names."""

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from services.meshkit.core.errors import Internal, Unavailable


class BlobStoreAway(Unavailable):
    """The object store does not answer, or refuses. Nothing is lost; try again."""

    def __init__(self, cause: object) -> None:
        super().__init__("the object store", cause=cause)


class BlobMissing(Internal):
    """An object that something refers to is not there: somebody deleted it from outside. Restore it from a backup."""

    reason = "BLOB_MISSING"

    def __init__(self, name: str) -> None:
        super().__init__("something that was kept is missing from the object store", name=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBlob:
    """An object as a list shows it."""

    name: str
    size: int
    #: When it was last put, on the store's own clock.
    put_time: datetime


class BlobStore(Protocol):
    """Keeps objects by name: words of letters, digits, `.`, `_` and `-` with `/` between them."""

    async def put(self, name: str, content: bytes) -> None:
        """Keeps an object, in place of one of that name; durable when it returns. Raises: BlobStoreAway."""
        ...

    async def get(self, name: str) -> bytes:
        """Gives an object. Raises: BlobStoreAway, BlobMissing."""
        ...

    def all(self, prefix: str) -> AsyncIterator[Sequence[StoredBlob]]:
        """Lists the objects below a prefix that ends in `/`, a bounded number at a time. Raises: BlobStoreAway."""
        ...

    async def delete(self, names: Iterable[str]) -> None:
        """Deletes objects; those that are gone already harm nobody. Raises: BlobStoreAway."""
        ...


def blob_store(place: str) -> BlobStore:
    """Opens the store at a directory, or at an address that obstore knows, such as `s3://bucket/prefix`."""
    if "://" not in place:
        from services.meshkit.blobs.directory import BlobDirectory

        return BlobDirectory(Path(place).absolute())
    from services.meshkit.blobs.bucket import BlobBucket  # 15 MB that a directory does without

    return BlobBucket.at(place)
