"""Similarity of texts and vectors, for convergence."""

import math
import re
from collections.abc import Sequence
from itertools import combinations
from typing import Final

#: Words too common to say anything about agreement.
_STOP_WORDS = frozenset(
    (
        *("a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "from", "has", "have", "in", "is", "it"),
        *("its", "of", "on", "or", "that", "the", "this", "to", "was", "we", "were", "will", "with"),
    )
)
#: Characters that `str.isalnum` takes, in a row.
_WORD: Final = re.compile(r"[^\W_]+")


def words_of(text: str) -> frozenset[str]:
    """Gives the set of a text's words: lower case, without punctuation and the commonest words."""
    return frozenset(_WORD.findall(text.lower())) - _STOP_WORDS


def jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    """Gives the Jaccard index of two sets, 0 to 1; two empty sets are equal.

    Source: P. Jaccard, "Étude comparative de la distribution florale", 1901.
    """
    union = len(left | right)
    return len(left & right) / union if union else 1.0


def mean_pairwise_jaccard(texts: Sequence[str]) -> float:
    """Gives the mean Jaccard index over all pairs of texts, 0 to 1; 0 for fewer than two texts."""
    pairs = list(combinations([words_of(text) for text in texts], 2))
    return sum(jaccard(left, right) for left, right in pairs) / len(pairs) if pairs else 0.0


def mean_pairwise_cosine(vectors: Sequence[Sequence[float]]) -> float:
    """Gives the mean cosine over all pairs of vectors of one length, -1 to 1; 0 for fewer than two vectors."""
    pairs = list(combinations(vectors, 2))
    return sum(_cosine(left, right) for left, right in pairs) / len(pairs) if pairs else 0.0


def _cosine(left: Sequence[float], right: Sequence[float]) -> float:
    norm = math.hypot(*left) * math.hypot(*right)
    return sum(a * b for a, b in zip(left, right, strict=True)) / norm if norm else 0.0
