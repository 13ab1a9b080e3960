"""Vectors of words without a model: texts that share words are similar, and the same text always has one vector."""

import math
import re
from array import array
from hashlib import blake2b

DIMENSIONS = 384


def vector_of(text: str, dimensions: int = DIMENSIONS) -> "array[float]":
    """Adds a fixed direction for each word and scales the sum to unit length."""
    values = [0.0] * dimensions
    for word in re.findall(r"\w+", text.lower()) or [""]:
        digest = blake2b(word.encode(), digest_size=32).digest()
        for start in range(0, 32, 4):
            place = int.from_bytes(digest[start : start + 3], "big") % dimensions
            values[place] += 1.0 if digest[start + 3] % 2 else -1.0
    length = math.sqrt(sum(value * value for value in values)) or 1.0
    return array("f", (value / length for value in values))
