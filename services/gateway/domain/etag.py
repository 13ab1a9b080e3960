"""Versions of things that several may change."""

from services.meshkit.core.errors import Conflict


class EtagStale(Conflict):
    """Somebody changed it since it was read. Read it again and redo the change."""

    reason = "ETAG_STALE"

    def __init__(self, noun: str, *, sent: str, now: str) -> None:
        super().__init__(
            f"the {noun} was changed meanwhile: its etag is {now!r}, not {sent!r}; read it again and redo the change",
            etag=now,
            sent=sent,
        )
