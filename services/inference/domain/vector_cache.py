"""Vectors that were made before, kept by tenant, model and text, within a bound of bytes."""

import hashlib
from array import array
from collections import OrderedDict
from typing import Final

from services.meshkit.core.identity import TenantId

Vector = tuple[float, ...]

#: What a vector takes beside its components, about: its key and its place.
_ENTRY_BYTES: Final = 512


class VectorCache:
    """Keeps the newest vectors of all tenants together, 4 bytes a component; a tenant finds its own only."""

    def __init__(self, *, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self.bytes = 0
        self._kept: OrderedDict[tuple[TenantId, str, bytes], array[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, tenant: TenantId, model: str, text: str) -> Vector | None:
        """Gives the vector of a text if it is kept."""
        key = (tenant, model, _digest(text))
        kept = self._kept.get(key)
        if kept is None:
            return None
        self._kept.move_to_end(key)
        return tuple(kept)

    def put(self, tenant: TenantId, model: str, text: str, vector: Vector) -> None:
        """Keeps a vector; the one not used for longest goes when there is no room."""
        key = (tenant, model, _digest(text))
        self._drop(key)
        kept = self._kept[key] = array("f", vector)
        self.bytes += _size(kept)
        while self.bytes > self._most_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: tuple[TenantId, str, bytes]) -> None:
        dropped = self._kept.pop(key, None)
        if dropped is not None:
            self.bytes -= _size(dropped)


def _size(vector: "array[float]") -> int:
    return _ENTRY_BYTES + vector.itemsize * len(vector)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
