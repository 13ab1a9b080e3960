"""Refusals about the audit trail."""

from datetime import timedelta

from services.meshkit.core.errors import Internal, NotFound, Precondition


class NotYetSigned(Precondition):
    """The entry is chained, and no signed head covers it yet. Heads are signed every minute; wait for the next."""

    reason = "NOT_YET_SIGNED"

    def __init__(self, index: int) -> None:
        super().__init__(
            f"no signed head covers entry {index} yet; heads are signed every minute, so ask again in one",
            retry_after=timedelta(minutes=1),
            index=index,
        )


class GapNotFound(NotFound):
    """Nothing is known to be missing there. `GetAuditStatus` lists what is."""

    reason = "GAP_NOT_FOUND"

    def __init__(self, service: str, stream: int, position: int) -> None:
        super().__init__("audit gap", f"{service}/{stream}/{position}")


class GapAcknowledged(Precondition):
    """Somebody has looked into this gap before. The status says who, when and why."""

    reason = "GAP_ACKNOWLEDGED"

    def __init__(self, actor: str) -> None:
        super().__init__(f"{actor} has acknowledged this gap before; the status of the trail says why", actor=actor)


class AuditFeedMalformed(Internal):
    """A service feeds audit entries that cannot be right. Our bug, or somebody plays that service."""

    reason = "AUDIT_FEED_MALFORMED"

    def __init__(self, service: str, what: str) -> None:
        super().__init__(f"the audit feed of {service} is not right: {what}", service=service)


class HeadStoreDamaged(Internal):
    """The store of signed heads holds something that this gateway did not write."""

    reason = "HEAD_STORE_DAMAGED"
