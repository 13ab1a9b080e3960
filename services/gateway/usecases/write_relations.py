"""Adds and removes relation tuples."""

from typing import Final

from services.gateway.relations.tuples import RelationTuple, check_place
from services.gateway.usecases.access_ports import (
    AccessWork,
    BeginAccessWork,
    Changed,
    RelationStore,
    TenantModel,
    TupleChange,
)
from services.gateway.usecases.deliver_relations import DeliverRelations, make_undelivered
from services.meshkit.core.audit import note
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Caller, TenantId
from services.meshkit.core.once import AnsweredBefore
from services.meshkit.core.tenant import QuotaExceeded

MAX_TUPLES: Final = 100
#: Objects that the audit trail names as the target of one change.
_MOST_NAMED: Final = 3


class WriteRelations:
    """Changes tuples, all or none. What is there already, or gone already, is no fault.

    Args:
        most: tuples that a tenant may have. Requests at one time may go beyond it by `MAX_TUPLES` each: none waits for
            another to count.
    """

    def __init__(self, *, begin: BeginAccessWork, store: RelationStore, deliver: DeliverRelations, most: int) -> None:
        self._begin = begin
        self._store = store
        self._deliver = deliver
        self._most = most

    async def __call__(self, caller: Caller, change: TupleChange) -> Changed:
        """Raises: Invalid, naming the field; QuotaExceeded; as `once`. Unavailable: the change was not made; or
        it was committed and will be made as soon as the server answers that keeps relations.
        """
        _check_size(change)
        tenant = caller.principal.tenant
        try:
            changed = await self._commit(tenant, change)
        except AnsweredBefore:
            # The first may have been cut short before this.
            await self._delivered(tenant)
            raise
        await self._delivered(tenant)
        return changed

    async def _delivered(self, tenant: TenantId) -> None:
        if self._store.elsewhere:
            await self._deliver.of(tenant)

    async def _commit(self, tenant: TenantId, change: TupleChange) -> Changed:
        async with self._begin(tenant) as work:
            await work.claim_once()
            stored = await self._model(work, tenant)
            model = await stored.read()
            for index, written in enumerate(change.writes):
                check_place(model, written, field=f"writes[{index}]")
            if change.writes and stored.tuples + len(change.writes) > self._most:
                raise QuotaExceeded("max_relation_tuples", limit=self._most, used=stored.tuples)
            fresh = frozenset(written.object.type for written in change.writes) - stored.governed
            if fresh:
                await work.models.govern(tenant, fresh)
            changed = await self._store.change(work, tenant, model, change)
            if changed.written != changed.deleted:
                await work.models.count(tenant, changed.written - changed.deleted)
            note(target=_objects(change), details=_details(change))
            await work.keep_once(changed)
            await work.commit()
        return changed

    async def _model(self, work: AccessWork, tenant: TenantId) -> TenantModel:
        if not self._store.elsewhere:
            return await work.models.get(tenant)
        # Elsewhere changes are made in the order of their commits, so what one will do is known once the others are.
        locked = await work.models.lock(tenant)
        await make_undelivered(work, self._store, tenant)
        return locked


def _check_size(change: TupleChange) -> None:
    count = len(change.writes) + len(change.deletes)
    if not 1 <= count <= MAX_TUPLES:
        raise Invalid("writes", f"must be 1 to {MAX_TUPLES} together with deletes, are {count}")
    seen: set[RelationTuple] = set()
    for field, tuples in (("writes", change.writes), ("deletes", change.deletes)):
        for index, one in enumerate(tuples):
            if one in seen:
                raise Invalid(f"{field}[{index}]", f"`{one}` stands in the request twice")
            seen.add(one)


def _objects(change: TupleChange) -> str:
    """Names what the change is about, shortened."""
    named = list(dict.fromkeys(str(one.object) for one in (*change.writes, *change.deletes)))
    return ", ".join(named[:_MOST_NAMED]) + (f" and {len(named) - _MOST_NAMED} more" if named[_MOST_NAMED:] else "")


def _details(change: TupleChange) -> dict[str, str]:
    """Writes the tuples out, as many as an entry of the audit trail takes."""
    verbs = (("write", change.writes), ("delete", change.deletes))
    return {f"{verb}_{number}": str(one) for verb, tuples in verbs for number, one in enumerate(tuples, start=1)}
