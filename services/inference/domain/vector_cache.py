"""Vectors that were made before, kept by tenant, model and text, within a bound."""

import hashlib
from array import array
from collections import OrderedDict

from services.meshkit.core.identity import TenantId

Vector = tuple[float, ...]


class VectorCache:
    """Keeps the newest `most` vectors of all tenants together, 4 bytes a component; a tenant finds its own only."""

    def __init__(self, *, most: int) -> None:
        self._most = most
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
        if self._most == 0:
            return
        key = (tenant, model, _digest(text))
        self._kept[key] = array("f", vector)
        self._kept.move_to_end(key)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
