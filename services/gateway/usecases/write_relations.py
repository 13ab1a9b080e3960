"""Adds and removes relation tuples."""

from collections.abc import Iterable
from typing import Final

from services.gateway.relations.tuples import RelationTuple, check_place
from services.gateway.usecases.access_ports import BeginAccessWork, Changed, RelationStore, TupleChange
from services.gateway.usecases.ports import Repeatable
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Caller

MAX_TUPLES: Final = 100


class WriteRelations:
    """Changes tuples, all or none. What is there already, or gone already, is no fault."""

    def __init__(self, *, begin: BeginAccessWork, store: RelationStore) -> None:
        self._begin = begin
        self._store = store

    async def __call__(self, caller: Caller, change: TupleChange, *, request: Repeatable | None) -> Changed:
        """Raises: Invalid, naming the field; RequestIdReused."""
        _check_size(change)
        tenant = caller.principal.tenant
        async with self._begin(tenant) as work:
            if request is not None:
                answer = await work.answers.claim(tenant, request)
                if answer is not None:
                    return _read(answer)
            stored = await work.models.get(tenant)
            for index, written in enumerate(change.writes):
                check_place(stored.model, written, field=f"writes[{index}]")
            fresh = frozenset(written.object.type for written in change.writes) - stored.governed
            if fresh:
                await work.models.govern(tenant, fresh)
            changed = await self._store.change(work, tenant, stored.model, change)
            await work.audit.add(
                "access.relations_written", _subject(change), by=caller.principal.subject, tenant=tenant
            )
            if request is not None:
                await work.answers.keep(tenant, request, f"{changed.written} {changed.deleted}".encode())
            await work.commit()
        return changed


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


def _subject(change: TupleChange) -> str:
    """Names what the change is about: the objects, shortened."""

    def objects(tuples: Iterable[RelationTuple]) -> list[str]:
        return list(dict.fromkeys(str(one.object) for one in tuples))

    named = objects([*change.writes, *change.deletes])
    return ", ".join(named[:3]) + (f" and {len(named) - 3} more" if len(named) > 3 else "")


def _read(answer: bytes) -> Changed:
    written, deleted = answer.decode().split()
    return Changed(written=int(written), deleted=int(deleted))
