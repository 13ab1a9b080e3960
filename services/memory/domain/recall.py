"""What is asked of a recall, and what of the findings fits into it."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from services.memory.domain.memory import Memory, MemoryId
from services.meshkit.content import CallContext
from services.meshkit.core.errors import Invalid

MAX_QUERY: Final = 16_000
MAX_MATCHES: Final = 50
DEFAULT_MIN_SCORE: Final = 0.3
DEFAULT_MAX_TOKENS: Final = 4_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallQuery:
    """A checked request to recall."""

    context: CallContext
    query: str
    session: UUID | None
    #: Whose memories to search; empty means all of the project.
    agent: str
    recent_turns: int
    semantic_matches: int
    min_score: float
    max_tokens: int

    def checked(self) -> "RecallQuery":
        """Gives the query back if all limits are kept. Raises: Invalid, naming the field."""
        for field, count in (("recent_turns", self.recent_turns), ("semantic_matches", self.semantic_matches)):
            if not 0 <= count <= MAX_MATCHES:
                raise Invalid(field, f"must be 0 to {MAX_MATCHES}")
        if len(self.query) > MAX_QUERY:
            raise Invalid("query", f"must have at most {MAX_QUERY} characters")
        if self.semantic_matches and not self.query.strip():
            raise Invalid("query", "is required for semantic matches; say what to look for")
        if math.isnan(self.min_score) or not -1.0 <= self.min_score <= 1.0:
            raise Invalid("min_score", "must be -1 to 1")
        if self.max_tokens < 0:
            raise Invalid("max_tokens", f"must not be negative; 0 means {DEFAULT_MAX_TOKENS}")
        return self

    @property
    def project(self) -> str:
        """Whose memories to look at; empty for those of no project."""
        return self.context.project

    @property
    def least_score(self) -> float:
        """The least similarity that counts."""
        return self.min_score or DEFAULT_MIN_SCORE

    @property
    def token_budget(self) -> int:
        """Most tokens of the answer."""
        return self.max_tokens or DEFAULT_MAX_TOKENS


@dataclass(frozen=True, slots=True)
class Scored:
    """A memory and how similar it is to the query."""

    memory: Memory
    #: Cosine similarity, -1 to 1.
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """The answer to a recall."""

    #: Oldest first.
    recent: tuple[Memory, ...]
    #: Best first; none of them is in `recent`.
    semantic: tuple[Scored, ...]
    semantic_skipped: bool
    #: Something was left out to stay within the budget.
    truncated: bool


def rank(scores: Mapping[MemoryId, float], *, without: Collection[Memory], least: float) -> list[MemoryId]:
    """Orders what is similar enough and not among `without`, best first."""
    shown = {memory.id for memory in without}
    kept = [memory for memory, score in scores.items() if score >= least and memory not in shown]
    return sorted(kept, key=lambda memory: (-scores[memory], memory))


def fit(newest_first: Sequence[Memory], matches: Sequence[Scored], *, budget: int, skipped: bool) -> Recalled:
    """Keeps what fits into the budget: matches that fit, best first, then the latest turns without a gap.

    So the oldest turns are the first to be left out.
    """
    left = budget
    semantic: list[Scored] = []
    for match in matches:
        if match.memory.tokens <= left:
            semantic.append(match)
            left -= match.memory.tokens
    recent: list[Memory] = []
    for memory in newest_first:
        if memory.tokens > left:
            break
        recent.append(memory)
        left -= memory.tokens
    recent.reverse()
    return Recalled(
        recent=tuple(recent),
        semantic=tuple(semantic),
        semantic_skipped=skipped,
        truncated=len(recent) < len(newest_first) or len(semantic) < len(matches),
    )
