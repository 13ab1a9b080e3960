"""Objects in an object store (S3, GCS, Azure, or any other that obstore knows).

Credentials come from the environment, as each store's own tools read them.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from obstore import delete_async, get_async, put_async
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import ObjectStore, from_url

from services.meshkit.blobs.store import BlobMissing, BlobStoreAway, StoredBlob

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

_LISTED_AT_ONCE: Final = 1_000
#: Callers try again themselves, and others may wait for them: the defaults go on for three minutes.
_CLIENT: Final["ClientConfig"] = {"timeout": "10s", "connect_timeout": "2s"}
_RETRY: Final["RetryConfig"] = {"max_retries": 1, "retry_timeout": timedelta(seconds=10)}


class BlobBucket:
    """Implements `BlobStore`."""

    def __init__(self, store: ObjectStore) -> None:
        # The lists of obstore come in two types, one of which its stubs leave open.
        self._store: Any = store

    @classmethod
    def at(cls, url: str) -> "BlobBucket":
        """Opens the store at `s3://bucket/prefix`, `gs://…`, `az://…`."""
        return cls(from_url(url, client_options=_CLIENT, retry_config=_RETRY))

    async def put(self, name: str, content: bytes) -> None:
        """See `BlobStore.put`."""
        try:
            await put_async(self._store, name, content)
        except (BaseError, OSError) as error:
            raise BlobStoreAway(type(error).__name__) from error

    async def get(self, name: str) -> bytes:
        """See `BlobStore.get`."""
        try:
            return bytes(await (await get_async(self._store, name)).bytes_async())
        except (NotFoundError, FileNotFoundError) as error:
            raise BlobMissing(name) from error
        except (BaseError, OSError) as error:
            raise BlobStoreAway(type(error).__name__) from error

    async def all(self, prefix: str) -> AsyncIterator[Sequence[StoredBlob]]:
        """See `BlobStore.all`."""
        try:
            async for chunk in self._store.list(prefix, chunk_size=_LISTED_AT_ONCE):
                yield [
                    StoredBlob(name=item["path"], size=item["size"], put_time=item["last_modified"]) for item in chunk
                ]
        except (NotFoundError, FileNotFoundError):
            return
        except (BaseError, OSError) as error:
            raise BlobStoreAway(type(error).__name__) from error

    async def delete(self, names: Iterable[str]) -> None:
        """See `BlobStore.delete`."""
        try:
            for name in names:
                await self._delete(name)
        except (BaseError, OSError) as error:
            raise BlobStoreAway(type(error).__name__) from error

    async def _delete(self, name: str) -> None:
        try:
            await delete_async(self._store, name)
        except (NotFoundError, FileNotFoundError):
            return
