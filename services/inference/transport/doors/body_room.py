"""Bounds the memory of long bodies: each is held several times over, as text, as bytes and on its way upstream."""

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

from services.inference.domain.errors import DoorsFull
from services.meshkit.core.identity import TenantId
from services.meshkit.telemetry import metrics

#: Bodies up to this length, bytes, are not counted: the edge bounds how many requests there are.
SHORT_BODY: Final = 64 * 1024
#: A tenant has at most this share of the room, so that no two of them need to know of each other's pictures.
_SHARE_OF_TENANT: Final = 0.5
_RETRY_AFTER: Final = timedelta(seconds=1)
_ROOM: Final = "inference_door_bodies"


class BodyRoom:
    """Lets long bodies in while there is room for them.

    Args:
        most: bytes of all long bodies that are being answered.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: Counter[TenantId] = Counter()
        self._sum = metrics.CACHE_BYTES.labels(_ROOM)
        self._refused = metrics.QUEUE_REFUSED.labels(_ROOM)

    @property
    def taken_bytes(self) -> int:
        """Bytes of the long bodies that are being answered."""
        return self._taken.total()

    @contextmanager
    def taken(self, tenant: TenantId, length: int) -> Generator[None]:
        """Keeps room for a body of a tenant in the block.

        Args:
            length: of the body, bytes; the longest that may come where nobody said.
        Raises: DoorsFull.
        """
        if length <= SHORT_BODY:
            yield
            return
        if self.taken_bytes + length > self._most or self._taken[tenant] + length > self._most * _SHARE_OF_TENANT:
            self._refused.inc()
            raise DoorsFull(self._most, retry_after=_RETRY_AFTER)
        self._taken[tenant] += length
        self._sum.set(self.taken_bytes)
        try:
            yield
        finally:
            self._taken[tenant] -= length
            if not self._taken[tenant]:
                del self._taken[tenant]
            self._sum.set(self.taken_bytes)
