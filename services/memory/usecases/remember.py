"""Remembers: law first, then one row, then the embedding in its own time."""

from collections.abc import Callable
from dataclasses import replace

from services.memory.domain.errors import CallArgumentsDiffer, LawBlocked
from services.memory.domain.memory import Memory, MemoryId, Placement, Remembrance, name_of
from services.memory.usecases.ports import MemoryWriter, Stored
from services.meshkit.calls.ports import LawGate
from services.meshkit.content import Part
from services.meshkit.content.law import Stage, Subject, Verdict
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Unavailable
from services.meshkit.core.failpoints import failpoint, register
from services.meshkit.core.identity import Principal
from services.meshkit.core.ids import IdSource

register("memory.before_commit", "memory.after_commit")


class Remember:
    """Stores one memory per call id.

    Args:
        wake: told of a tenant that has something to embed, and whose token may be used for it.
    """

    def __init__(
        self, *, law: LawGate, memories: MemoryWriter, wake: Callable[[Principal], None], clock: Clock, ids: IdSource
    ) -> None:
        self._law = law
        self._memories = memories
        self._wake = wake
        self._clock = clock
        self._ids = ids

    async def __call__(self, principal: Principal, wanted: Remembrance) -> Memory:
        """Gives the memory as stored, or the first one of a repeated call.

        Raises: LawBlocked; QuotaExceeded; Unavailable: the law or Postgres cannot be asked; CallArgumentsDiffer.
        """
        subject = Subject(stage=Stage.BEFORE, parts=wanted.parts, context=wanted.context)
        verdict = await self._law.evaluate(principal, subject)
        if not verdict.allowed:
            return await self._blocked(wanted, verdict)
        memory = wanted.to_memory(
            MemoryId(self._ids.uuid()),
            _passed(wanted.parts, verdict),
            now=self._clock.now(),
            verdict_id=verdict.id,
        )
        await failpoint("memory.before_commit")
        stored = await self._memories.add(memory, call_key=wanted.call_key, digest=wanted.digest)
        await failpoint("memory.after_commit")
        if stored.memory.placement is Placement.PENDING:
            self._wake(principal)
        return _same(stored, wanted)

    async def _blocked(self, wanted: Remembrance, verdict: Verdict) -> Memory:
        # The law may have changed since the first time; what was remembered then stays remembered.
        earlier = await self._memories.of_call(wanted.tenant, wanted.call_key)
        if earlier is not None:
            return _same(earlier, wanted)
        raise LawBlocked(verdict_id=verdict.id, rules=verdict.blocking, bundle=verdict.bundle)


def _passed(parts: tuple[Part, ...], verdict: Verdict) -> tuple[Part, ...]:
    """Gives the parts as the law wants them stored. Their labels are never below what they were (INV-10)."""
    if not verdict.parts:
        return parts
    if len(verdict.parts) != len(parts):
        raise Unavailable("policy", verdict_id=verdict.id)
    return tuple(
        replace(redacted, label=redacted.label.joined(part.label))
        for redacted, part in zip(verdict.parts, parts, strict=True)
    )


def _same(stored: Stored, wanted: Remembrance) -> Memory:
    if stored.digest != wanted.digest:
        raise CallArgumentsDiffer(wanted.context.call_id, memory_id=name_of(stored.memory.id))
    return stored.memory
