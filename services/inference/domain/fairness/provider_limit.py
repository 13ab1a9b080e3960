"""How often a provider lets one replica ask a deployment, and for how many tokens."""

from typing import Final

from services.inference.domain.deployment import DeploymentVersion

#: Nobody knows when a call ends: soon after, it is looked at again.
_LOOK_AGAIN_SECONDS: Final = 0.1
_MINUTE: Final = 60.0


class _Bucket:
    """As much a minute, and no more than that at once."""

    def __init__(self, a_minute: int) -> None:
        self._a_minute = a_minute
        self._left = float(a_minute)
        self._at = 0.0

    def wait(self, amount: int, now: float) -> float:
        """Gives the seconds until so much may be taken. More than a minute's worth waits for a full bucket."""
        if now > self._at:
            self._left = min(self._a_minute, self._left + (now - self._at) * self._a_minute / _MINUTE)
            self._at = now
        return max(0.0, (min(amount, self._a_minute) - self._left) * _MINUTE / self._a_minute)

    def take(self, amount: int) -> None:
        self._left -= amount


class ProviderLimit:
    """Keeps calls to a version below what its provider takes of one replica. What is 0 is not limited."""

    def __init__(self, version: DeploymentVersion) -> None:
        self._most = version.max_concurrency
        self._calls = _Bucket(version.requests_per_minute) if version.requests_per_minute else None
        self._tokens = _Bucket(version.tokens_per_minute) if version.tokens_per_minute else None
        self.running = 0

    def wait(self, *, tokens: int, now: float) -> float:
        """Gives the seconds for which there is no leave; 0: the call may be made."""
        seconds = _LOOK_AGAIN_SECONDS if self._most and self.running >= self._most else 0.0
        if self._calls is not None:
            seconds = max(seconds, self._calls.wait(1, now))
        if self._tokens is not None:
            seconds = max(seconds, self._tokens.wait(tokens, now))
        return seconds

    def begin(self, *, tokens: int) -> None:
        """Counts a call that is made."""
        self.running += 1
        if self._calls is not None:
            self._calls.take(1)
        if self._tokens is not None:
            self._tokens.take(tokens)

    def end(self) -> None:
        """Counts a call that has ended."""
        self.running = max(0, self.running - 1)
