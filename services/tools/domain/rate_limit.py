"""How often a tenant may call a tool: a token bucket each, as large as a minute's calls.

Each replica counts for itself, so a tenant reaches at most the limit times the number of replicas.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from services.meshkit.core.identity import TenantId

_SECONDS: Final = 60.0


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class RateLimits:
    """The buckets that are in use, at most `most`; of more, the one not used for longest starts afresh.

    Args:
        now: seconds of a clock that never runs backwards.
    """

    def __init__(self, *, now: Callable[[], float], most: int = 20_000) -> None:
        self._now = now
        self._most = most
        self._buckets: OrderedDict[tuple[TenantId, str], _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, tenant: TenantId, tool: str, *, per_minute: int) -> float:
        """Takes one call; gives 0, or the seconds to wait when there is none to take."""
        key, now = (tenant, tool), self._now()
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(float(per_minute), now)
            while len(self._buckets) > self._most:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        rate = per_minute / _SECONDS
        bucket.tokens = min(float(per_minute), bucket.tokens + (now - bucket.at) * rate)
        bucket.at = now
        if bucket.tokens < 1.0:
            return (1.0 - bucket.tokens) / rate
        bucket.tokens -= 1.0
        return 0.0
