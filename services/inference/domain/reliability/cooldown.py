"""Leaves a deployment alone for as long as it asked for."""

from typing import Final

#: Longest time that a provider is believed, and what counts when it names none, seconds.
MOST_SECONDS: Final = 3600.0
USUAL_SECONDS: Final = 5.0


class Cooldown:
    """The time before which a deployment wants no call."""

    def __init__(self) -> None:
        self._until = 0.0

    def asked(self, seconds: float | None, now: float) -> None:
        """Hears that it wants to be left alone. What it asked for before is not cut short."""
        wanted = USUAL_SECONDS if seconds is None else min(max(seconds, 0.0), MOST_SECONDS)
        self._until = max(self._until, now + wanted)

    def wait(self, now: float) -> float:
        """Gives the seconds until a call is welcome; 0: now."""
        return max(self._until - now, 0.0)
