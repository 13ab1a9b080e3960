"""Replaces a tenant's authorization model."""

from services.gateway.domain.etag import EtagStale
from services.gateway.relations.parse import read_model
from services.gateway.usecases.access_ports import BeginAccessWork, RelationStore
from services.meshkit.core.audit import note
from services.meshkit.core.identity import Caller


class WriteAccessModel:
    """Stores a model that can be read. Tuples stay."""

    def __init__(self, *, begin: BeginAccessWork, store: RelationStore) -> None:
        self._begin = begin
        self._store = store

    async def __call__(self, caller: Caller, text: str, *, etag: str) -> str:
        """Gives the new etag.

        Args:
            etag: of the model that is replaced; empty for whichever it is.
        Raises: ModelInvalid, EtagStale; as `once`.
        """
        tenant = caller.principal.tenant
        model = await read_model(text)
        async with self._begin(tenant) as work:
            await work.claim_once()
            before = await work.models.lock(tenant)
            if etag and etag != before.etag:
                raise EtagStale("authorization model", sent=etag, now=before.etag)
            await self._store.accept(model)
            after = await work.models.replace(tenant, text)
            note(target="authorization model", details={"etag": after.etag, "replaced": before.etag})
            await work.keep_once(after.etag)
            await work.commit()
        return after.etag
