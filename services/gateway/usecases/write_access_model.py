"""Replaces a tenant's authorization model."""

from services.gateway.domain.etag import EtagStale
from services.gateway.relations.parse import read_model
from services.gateway.usecases.access_ports import BeginAccessWork, RelationStore
from services.gateway.usecases.ports import Repeatable
from services.meshkit.core.audit import note
from services.meshkit.core.identity import Caller


class WriteAccessModel:
    """Stores a model that can be read. Tuples stay."""

    def __init__(self, *, begin: BeginAccessWork, store: RelationStore) -> None:
        self._begin = begin
        self._store = store

    async def __call__(self, caller: Caller, text: str, *, etag: str, request: Repeatable | None) -> str:
        """Gives the new etag.

        Args:
            etag: of the model that is replaced; empty for whichever it is.
        Raises: ModelInvalid, EtagStale, RequestIdReused.
        """
        tenant = caller.principal.tenant
        model = await read_model(text)
        async with self._begin(tenant) as work:
            if request is not None:
                answer = await work.answers.claim(tenant, request)
                if answer is not None:
                    return answer.decode()
            before = await work.models.lock(tenant)
            if etag and etag != before.etag:
                raise EtagStale("authorization model", sent=etag, now=before.etag)
            await self._store.accept(model)
            after = await work.models.replace(tenant, text)
            note(target="authorization model", details={"etag": after.etag, "replaced": before.etag})
            if request is not None:
                await work.answers.keep(tenant, request, after.etag.encode())
            await work.commit()
        return after.etag
