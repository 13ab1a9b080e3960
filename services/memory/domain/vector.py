"""Vectors that stand for texts."""

from array import array
from dataclasses import dataclass
from typing import TypeAlias

#: float32 components, unit length.
Vector: TypeAlias = "array[float]"


@dataclass(frozen=True, slots=True)
class Space:
    """Where vectors compare: those of one model and length. Vectors of different models never do."""

    model: str
    dimensions: int


@dataclass(frozen=True, slots=True)
class Embedding:
    """A vector and the space it lives in."""

    space: Space
    vector: Vector


def vector_to_bytes(vector: Vector) -> bytes:
    """Writes a vector, four bytes a component, in the byte order of the machine (little-endian everywhere we run)."""
    return vector.tobytes()


def vector_from_bytes(packed: bytes) -> Vector:
    """Reads what `vector_to_bytes` wrote."""
    return array("f", packed)
