"""Lets API keys in at the edge, and holds back addresses that try many."""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol
from uuid import UUID

from services.gateway.usecases.exchange_api_key import AccessToken, ExchangeApiKey
from services.gateway.usecases.wrong_keys import AGAIN, LOOKUP, WrongKeys
from services.meshkit.core.clock import Clock
from services.meshkit.core.key_secret import NO_SECRET, ApiKeyInvalid, PresentedKey
from services.meshkit.telemetry import metrics


class HeardOf(Protocol):
    """A key of which the guard feed told."""

    def fits(self, secret: str, *, now: datetime) -> bool:
        """True when the key works and this is its secret."""
        ...


class KeyGate:
    """Exchanges the key of a request for a token.

    Wrong keys cost their address something, and once it has nothing left no unknown key of it is looked up. A key that
    works costs nothing: others at that address are not locked out by what one of them does.

    Args:
        heard_of: finds a key that works among those known without a round trip. Others may work too.
    """

    def __init__(
        self,
        exchange: ExchangeApiKey,
        *,
        heard_of: Callable[[UUID], HeardOf | None],
        wrong: WrongKeys,
        clock: Clock,
    ) -> None:
        self._exchange = exchange
        self._heard_of = heard_of
        self._wrong = wrong
        self._clock = clock

    async def __call__(self, text: str, *, address: str) -> AccessToken:
        """Gives a token for whoever the key is.

        Args:
            address: where the request came from.
        Raises: ApiKeyInvalid, TenantSuspended. RateLimited: too many wrong keys came from there.
        """
        if self._exchange.is_wrong(text):
            self._wrong.charge(address, AGAIN)
            metrics.API_KEYS_REFUSED.labels("wrong").inc()
            raise ApiKeyInvalid
        if self._exchange.is_known(text) or self._should_work(text):
            return await self._exchange(text)
        self._wrong.charge(address, LOOKUP)
        wrong = False
        try:
            return await self._exchange(text)
        except ApiKeyInvalid:
            wrong = True
            metrics.API_KEYS_REFUSED.labels("wrong").inc()
            raise
        finally:
            if not wrong:
                self._wrong.refund(address, LOOKUP)

    def _should_work(self, text: str) -> bool:
        presented = PresentedKey.parse(text)
        known = self._heard_of(presented.id)
        if known is None:
            # A wrong id takes as long as a wrong secret.
            return NO_SECRET.fits(presented.secret)
        return known.fits(presented.secret, now=self._clock.now())
