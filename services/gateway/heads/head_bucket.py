"""Signed heads in an object store (S3, GCS, Azure, or any other that obstore knows): one object per head.

    heads/<tenant>/<size, 16 digits>.json         one line `{"head":{…}}`, never overwritten
    archive/<tenant>/<first>-<end>.jsonl          archived entries, as in an export
    erased/<tenant>                               a signed note: erase it, whatever a restored database says

Lock the bucket's objects (retention in compliance mode) and no credential can remove a head. Credentials come from the
environment, as each store's own tools read them.
"""

from collections.abc import Mapping
from typing import Any, Final

from obstore import get_async, put_async
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import ObjectStore, from_url

from comitia_sdk.audit.head import Head, HeadMalformed
from comitia_sdk.audit.lines import head_line, read_head
from services.gateway.domain.audit_errors import HeadStoreDamaged
from services.gateway.domain.tenant import TENANT_PREFIX
from services.gateway.heads.head_directory import STORE, part_name, tenant_named
from services.gateway.usecases.audit_ports import ArchivePart
from services.meshkit.core.errors import Unavailable
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import from_uuid

_DIGITS: Final = 16
_ERASED: Final = "erased/"


class HeadBucket:
    """Implements `usecases.audit_ports.HeadStore` and `heads.erasure_notes.NoteStore`."""

    def __init__(self, store: ObjectStore) -> None:
        # The lists of obstore come in two types, one of which its stubs leave open.
        self._store: Any = store

    @classmethod
    def at(cls, url: str) -> "HeadBucket":
        """Opens the store at `s3://bucket/prefix`, `gs://…`, `az://…`."""
        return cls(from_url(url))

    async def add(self, heads: Mapping[TenantId, Head]) -> None:
        """See `HeadStore.add`. A head of this size that lies there already stays: it says the same."""
        try:
            for tenant, head in heads.items():
                try:
                    await put_async(self._store, _head_name(tenant, head.size), head_line(head), mode="create")
                except AlreadyExistsError:
                    continue
        except (BaseError, OSError) as error:
            raise Unavailable(STORE, cause=error) from error

    async def tenants(self) -> list[TenantId]:
        """See `HeadStore.tenants`."""
        try:
            found = await self._store.list_with_delimiter_async("heads/")
        except (BaseError, OSError) as error:
            raise Unavailable(STORE, cause=error) from error
        return [tenant_named(prefix.rstrip("/").rpartition("/")[2]) for prefix in found["common_prefixes"]]

    async def newest(self, tenant: TenantId, *, above: int = 0) -> Head | None:
        """See `HeadStore.newest`. Names sort like sizes, so only those above are listed."""
        prefix = f"heads/{from_uuid(TENANT_PREFIX, tenant)}/"
        newest = ""
        try:
            async for chunk in self._store.list(prefix, offset=_head_name(tenant, above)):
                newest = max(newest, *(str(item["path"]) for item in chunk))
            if not newest:
                return None
            content = bytes(await (await get_async(self._store, newest)).bytes_async())
        except (BaseError, OSError) as error:
            raise Unavailable(STORE, cause=error) from error
        try:
            return read_head(content)
        except HeadMalformed as error:
            raise HeadStoreDamaged(f"{newest} is no signed head", name=newest) from error

    async def put_archive(self, part: ArchivePart, lines: bytes) -> None:
        """See `HeadStore.put_archive`."""
        try:
            await put_async(self._store, _archive_name(part), lines)
        except (BaseError, OSError) as error:
            raise Unavailable(STORE, cause=error) from error

    async def archive(self, part: ArchivePart) -> bytes:
        """See `HeadStore.archive`."""
        name = _archive_name(part)
        try:
            return bytes(await (await get_async(self._store, name)).bytes_async())
        except (NotFoundError, FileNotFoundError) as error:
            raise HeadStoreDamaged(f"the archive lacks {name}", name=name) from error
        except (BaseError, OSError) as error:
            raise Unavailable(STORE, cause=error) from error

    async def keep_note(self, name: str, content: bytes) -> None:
        """See `NoteStore.keep_note`."""
        try:
            await put_async(self._store, f"{_ERASED}{name}", content)
        except (BaseError, OSError) as error:
            raise Unavailable(STORE, cause=error) from error

    async def notes(self) -> dict[str, bytes]:
        """See `NoteStore.notes`."""
        found: dict[str, bytes] = {}
        try:
            async for chunk in self._store.list(_ERASED):
                for path in (str(item["path"]) for item in chunk):
                    found[path.removeprefix(_ERASED)] = bytes(await (await get_async(self._store, path)).bytes_async())
        except (BaseError, OSError) as error:
            raise Unavailable(STORE, cause=error) from error
        return found


def _head_name(tenant: TenantId, size: int) -> str:
    return f"heads/{from_uuid(TENANT_PREFIX, tenant)}/{size:0{_DIGITS}d}.json"


def _archive_name(part: ArchivePart) -> str:
    return f"archive/{from_uuid(TENANT_PREFIX, part.tenant)}/{part_name(part)}"
