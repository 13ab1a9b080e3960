"""Ids that are the same in every run of a test."""

from random import Random
from uuid import UUID

from services.meshkit.core.ids import from_uuid

#: Milliseconds since 1970 that the first id carries: 2030-01-01T12:00:00Z.
_FIRST_MILLISECOND = 1_893_499_200_000


class SeededIds:
    """UUIDv7s from a seed, growing by a millisecond each, so that they sort as they were made."""

    def __init__(self, seed: int = 1) -> None:
        self._random = Random(seed)
        self._millisecond = _FIRST_MILLISECOND

    def new(self, prefix: str) -> str:
        """See `IdSource.new`."""
        return from_uuid(prefix, self.uuid())

    def uuid(self) -> UUID:
        """See `IdSource.uuid`."""
        self._millisecond += 1
        tail = self._random.getrandbits(74)
        high, low = tail >> 62, tail & ((1 << 62) - 1)
        return UUID(int=(self._millisecond << 80) | (7 << 76) | (high << 64) | (2 << 62) | low)
