"""Counts the wrong API keys that an address sends, and says when it has to wait.

In memory, not leased like other limits: booking a wrong key would cost the round trip that this is to save. So each
gateway counts for itself.
"""

import math
from collections import OrderedDict
from typing import Final

from services.meshkit.core.clock import Clock
from services.meshkit.core.rate import burst_of
from services.meshkit.grpc.client_address import block_of
from services.meshkit.grpc.limits import Allowance, RateLimited
from services.meshkit.telemetry import metrics

#: Wrong keys that one address may have looked up, per second; twice as many at once.
LOOKUPS_PER_SECOND: Final = 10.0
#: What a wrong key costs its address when it has to be looked up.
LOOKUP: Final = 10.0
#: What it costs when it is known to be wrong: no trip to the database, but a call all the same.
AGAIN: Final = 1.0
_METHOD: Final = "ExchangeApiKey"


class TooManyWrongKeys(RateLimited):
    """The address sent too many wrong API keys. Find out which program does, and wait as long as `retry_after` says."""

    def __init__(self, *, allowance: Allowance, seconds: float) -> None:
        sentence = f"your address sent too many wrong API keys ({allowance.limit} a second are looked up); check yours"
        super().__init__(whose="address", method=_METHOD, allowance=allowance, seconds=seconds, sentence=sentence)


class WrongKeys:
    """One bucket for each address, a /64 of IPv6 being one.

    Args:
        factor: of the limit, for benchmarks and tests.
        most_addresses: kept; the one that sent a wrong key longest ago is forgotten, and begins anew.
    """

    def __init__(self, *, clock: Clock, factor: float = 1.0, most_addresses: int = 20_000) -> None:
        self._clock = clock
        self._per_second = LOOKUP * LOOKUPS_PER_SECOND * factor
        self._burst = LOOKUP * burst_of(LOOKUPS_PER_SECOND * factor)
        self._most_addresses = most_addresses
        #: What is left, and when that was; the latest last.
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        metrics.show_size("gateway.wrong_keys", self._left)

    @property
    def addresses(self) -> int:
        """How many addresses are remembered."""
        return len(self._left)

    def charge(self, address: str, price: float) -> None:
        """Takes the price of a wrong key, before it is known whether it is one.

        Raises: TooManyWrongKeys: nothing is taken.
        """
        now, block = self._clock.monotonic(), block_of(address)
        left = self._now_left(block, now)
        if left < price:
            metrics.API_KEYS_REFUSED.labels("limited").inc()
            raise TooManyWrongKeys(allowance=self._allowance(left), seconds=(price - left) / self._per_second)
        self._left[block] = left - price, now
        self._left.move_to_end(block)
        if len(self._left) > self._most_addresses:
            self._left.popitem(last=False)

    def refund(self, address: str, price: float) -> None:
        """Gives the price back: the key was not wrong."""
        now, block = self._clock.monotonic(), block_of(address)
        if block in self._left:
            self._left[block] = min(self._burst, self._now_left(block, now) + price), now

    def _now_left(self, block: str, now: float) -> float:
        left, since = self._left.get(block, (self._burst, now))
        return min(self._burst, left + (now - since) * self._per_second)

    def _allowance(self, left: float) -> Allowance:
        limit = max(1, round(self._per_second / LOOKUP))
        lacking = max(0.0, min(LOOKUP * limit, self._burst) - left)
        return Allowance(limit, int(left / LOOKUP), math.ceil(lacking / self._per_second))
