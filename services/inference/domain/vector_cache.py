"""Vectors that were made before, kept by tenant, model and text, within a bound of bytes."""

import hashlib
from array import array
from typing import Final

from services.inference.domain.tenant_shares import TenantShares
from services.meshkit.core.identity import TenantId

Vector = tuple[float, ...]

#: Whose vector it is, by which model, and the digest of its text.
_Key = tuple[TenantId, str, bytes]
#: What a vector takes beside its components, about: its key and its place.
_ENTRY_BYTES: Final = 512


class VectorCache:
    """Keeps vectors, 4 bytes a component. A tenant finds its own only, and pushes out nobody's who has less."""

    def __init__(self, *, most_bytes: int) -> None:
        self._kept: dict[_Key, array[float]] = {}
        self._shares = TenantShares[_Key](most_bytes=most_bytes)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def bytes(self) -> int:
        """Size of what is kept."""
        return self._shares.bytes

    def get(self, tenant: TenantId, model: str, text: str) -> Vector | None:
        """Gives the vector of a text if it is kept."""
        key = (tenant, model, _digest(text))
        kept = self._kept.get(key)
        if kept is None:
            return None
        self._shares.used(tenant, key)
        return tuple(kept)

    def put(self, tenant: TenantId, model: str, text: str, vector: Vector) -> None:
        """Keeps a vector; without room, what whoever has most has not used for longest goes."""
        key = (tenant, model, _digest(text))
        if key in self._kept:
            self._drop(key)
        kept = self._kept[key] = array("f", vector)
        self._shares.add(tenant, key, _size(kept))
        while (found := self._shares.too_much(tenant)) is not None:
            self._drop(found[1])

    def _drop(self, key: _Key) -> None:
        del self._kept[key]
        self._shares.remove(key[0], key)


def _size(vector: "array[float]") -> int:
    return _ENTRY_BYTES + vector.itemsize * len(vector)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
