"""Takes note that somebody has looked into a gap of the audit trail."""

from dataclasses import dataclass, replace

from services.gateway.domain.audit_errors import GapAcknowledged, GapNotFound
from services.gateway.domain.audit_stream import Acknowledgement, KnownBreak
from services.gateway.usecases.audit_ports import BeginGapWork
from services.meshkit.core.audit import MAX_TEXT, note
from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Caller


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledge:
    """Which gap, and what was found out about it."""

    service: str
    stream: int
    position: int
    reason: str


class AcknowledgeGap:
    """The gap stays in the status, with who, when and why; it is no alarm unless it is noticed anew."""

    def __init__(self, *, begin: BeginGapWork, clock: Clock) -> None:
        self._begin = begin
        self._clock = clock

    async def __call__(self, caller: Caller, command: Acknowledge) -> KnownBreak:
        """Raises: Invalid: the reason; GapNotFound, GapAcknowledged, AnsweredBefore and its kin for a repeat."""
        reason = command.reason.strip()
        # No longer than a detail of an entry may be, so that the trail tells all of it.
        if not 1 <= len(reason) <= MAX_TEXT or not reason.isprintable():
            raise Invalid("reason", f"must be 1 to {MAX_TEXT} printable characters: say what you found out")
        note(target=f"{command.service}/{command.stream}/{command.position}", details={"reason": reason})
        async with self._begin(caller.principal.tenant) as work:
            await work.claim_once()
            found = await work.locked(command.service, command.stream, command.position)
            if not found:
                raise GapNotFound(command.service, command.stream, command.position)
            left = [one for one in found if one.acknowledged is None]
            if not left:
                assert found[0].acknowledged is not None
                raise GapAcknowledged(found[0].acknowledged.actor)
            # Noticed by the clock of another gateway, perhaps: it was noticed before it is acknowledged all the same.
            now = max(self._clock.now(), *(one.notice_time for one in left))
            given = Acknowledgement(actor=caller.principal.subject, time=now, reason=reason)
            for one in left:
                await work.acknowledge(one.found, given)
            done = replace(left[0], acknowledged=given)
            await work.keep_once(done)
            await work.commit()
        return done
