"""How well a tool fits a task: by the words they share, and by what they mean."""

import math
import re
from collections.abc import Sequence
from typing import Final

from services.tools.domain.tool import Tool

#: A token is taken as four bytes.
BYTES_PER_TOKEN: Final = 4
_WORD: Final = re.compile(r"[^\W_]+")
_SEMANTIC_SHARE: Final = 0.7
_NAME_SHARE: Final = 0.4
#: Endings that make two forms of a word different, longest first.
_ENDINGS: Final = ("ings", "ing", "ions", "ion", "ers", "er", "es", "ed", "s", "e")
_STOP_WORDS: Final = frozenset(
    "a an and are as at be by for from in is it of on or that the this to was what with".split()
)


def described(tool: Tool) -> str:
    """Gives what is known of a tool as text, for words and for meaning."""
    return f"{tool.name.replace('_', ' ')}: {tool.description} Arguments: {', '.join(_properties(tool))}"


def definition_tokens(tool: Tool) -> int:
    """Gives how many tokens a definition takes in a prompt."""
    return -(-len(tool.canonical) // BYTES_PER_TOKEN)


def words_of(text: str) -> frozenset[str]:
    """Gives the words that carry meaning, without their endings."""
    words = (word.lower() for word in _WORD.findall(text))
    return frozenset(_stem(word) for word in words if word not in _STOP_WORDS)


def lexical_score(query: frozenset[str], tool: Tool) -> float:
    """Gives how much of the task's words the tool has, and of the tool's name the task, 0 to 1."""
    if not query:
        return 0.0
    name = words_of(tool.name.replace("_", " "))
    coverage = len(query & words_of(described(tool))) / len(query)
    named = len(query & name) / len(name) if name else 0.0
    return (1.0 - _NAME_SHARE) * coverage + _NAME_SHARE * named


def similarity(one: Sequence[float], other: Sequence[float]) -> float:
    """Gives the cosine of two vectors of unit length, as 0 to 1; opposites are 0."""
    if len(one) != len(other):
        return 0.0
    cosine = math.fsum(a * b for a, b in zip(one, other, strict=True))
    return min(1.0, max(0.0, cosine))


def combined(semantic: float, lexical: float) -> float:
    """Joins both scores into one, 0 to 1."""
    return _SEMANTIC_SHARE * semantic + (1.0 - _SEMANTIC_SHARE) * lexical


def _properties(tool: Tool) -> list[str]:
    properties = tool.input_schema.get("properties")
    return sorted(str(name) for name in properties) if isinstance(properties, dict) else []  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word
