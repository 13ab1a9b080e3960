"""Finds the tools that fit a task best, by meaning and by words; by words alone while no embedder answers."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.meshkit.core.clock import Clock
from services.meshkit.core.errors import Invalid, MeshError
from services.meshkit.core.identity import Principal, TenantId
from services.meshkit.telemetry.logs import logger
from services.tools.domain.relevance import (
    combined,
    definition_tokens,
    described,
    lexical_score,
    similarity,
    words_of,
)
from services.tools.domain.tool import Tool
from services.tools.usecases.catalogue import Catalogue
from services.tools.usecases.ports import Embedder

log = logger(__name__)

#: Tools of a tenant that are looked at.
MAX_CANDIDATES: Final = 2_000
_MAX_QUERY: Final = 4_000
_MAX_LIMIT: Final = 50
_DEFAULT_LIMIT: Final = 10
_DEFAULT_TOKENS: Final = 2_000
#: What inference embeds in one call.
_TEXTS_AT_ONCE: Final = 256

Vector = tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What is looked for. Zeros mean the defaults."""

    text: str
    max_tokens: int = 0
    agent: str = ""
    limit: int = 0

    def checked(self) -> "Query":
        """Gives the query with its defaults. Raises: Invalid, naming the field."""
        if not self.text.strip() or len(self.text) > _MAX_QUERY:
            raise Invalid("query", f"must be 1 to {_MAX_QUERY} characters, not only white space")
        if self.max_tokens < 0:
            raise Invalid("max_tokens", f"must be 0 (default {_DEFAULT_TOKENS}) or more")
        if not 0 <= self.limit <= _MAX_LIMIT:
            raise Invalid("limit", f"must be 0 (default {_DEFAULT_LIMIT}) to {_MAX_LIMIT}")
        return Query(
            text=self.text,
            max_tokens=self.max_tokens or _DEFAULT_TOKENS,
            agent=self.agent,
            limit=self.limit or _DEFAULT_LIMIT,
        )


@dataclass(frozen=True, slots=True)
class Match:
    """A tool and how well it fits, 0 to 1."""

    tool: Tool
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Tools, best first."""

    matches: tuple[Match, ...]
    #: True when similarity of meaning could not be asked.
    lexical_only: bool


class DefinitionVectors:
    """Vectors of definitions by tenant and digest, at most `most`, all of one model."""

    def __init__(self, *, most: int = 20_000) -> None:
        self._most = most
        self._model = ""
        self._vectors: OrderedDict[tuple[TenantId, bytes], Vector] = OrderedDict()

    def __len__(self) -> int:
        return len(self._vectors)

    def use(self, model: str) -> None:
        """Forgets everything when the model is another one: vectors of two models never compare."""
        if model != self._model:
            self._model = model
            self._vectors.clear()

    def get(self, tenant: TenantId, digest: bytes) -> Vector | None:
        """Gives a vector if it is known."""
        return self._vectors.get((tenant, digest))

    def put(self, tenant: TenantId, digest: bytes, vector: Vector) -> None:
        """Keeps a vector; the oldest goes when there is no room."""
        self._vectors[tenant, digest] = vector
        if len(self._vectors) > self._most:
            self._vectors.popitem(last=False)


class SearchTools:
    """Ranks the tools that an agent may call, and gives as many as fit into a budget of tokens.

    Args:
        embed_seconds: longest time that meaning may take; then the search is by words.
    """

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        embedder: Embedder,
        vectors: DefinitionVectors,
        clock: Clock,
        embed_seconds: float = 2.0,
    ) -> None:
        self._catalogue = catalogue
        self._embedder = embedder
        self._vectors = vectors
        self._clock = clock
        self._embed_seconds = embed_seconds

    async def __call__(self, principal: Principal, query: Query) -> Found:
        """Gives what fits. Raises: Invalid."""
        asked = query.checked()
        candidates = await self._catalogue.newest(principal.tenant, most=MAX_CANDIDATES)
        if asked.agent:
            candidates = [tool for tool in candidates if tool.allows(asked.agent)]
        words = words_of(asked.text)
        scores = [lexical_score(words, tool) for tool in candidates]
        meaning = await self._meaning(principal, asked.text, candidates)
        if meaning is not None:
            scores = [combined(semantic, lexical) for semantic, lexical in zip(meaning, scores, strict=True)]
        ranked = sorted(
            (Match(tool, score) for tool, score in zip(candidates, scores, strict=True) if score > 0),
            key=lambda match: (-match.score, match.tool.name),
        )
        return Found(matches=_within(ranked, asked), lexical_only=meaning is None)

    async def _meaning(self, principal: Principal, text: str, tools: Sequence[Tool]) -> list[float] | None:
        """Gives how near each tool is to the task, None when the embedder does not answer in time."""
        try:
            return await self._similarities(principal, text, tools)
        except MeshError as error:
            log.info("tools are searched by words only", reason=error.reason)
            return None

    async def _similarities(self, principal: Principal, text: str, tools: Sequence[Tool]) -> list[float]:
        ends = self._clock.monotonic() + self._embed_seconds
        asked = await self._embedder.embed(principal, [text], seconds=self._embed_seconds)
        self._vectors.use(asked.model)
        tenant = principal.tenant
        known = {tool.reference: self._vectors.get(tenant, tool.digest) for tool in tools}
        missing = [tool for tool in tools if known[tool.reference] is None]
        for start in range(0, len(missing), _TEXTS_AT_ONCE):
            some = missing[start : start + _TEXTS_AT_ONCE]
            left = ends - self._clock.monotonic()
            made = await self._embedder.embed(principal, [described(tool) for tool in some], seconds=left)
            self._vectors.use(made.model)
            for tool, vector in zip(some, made.vectors, strict=True):
                self._vectors.put(tenant, tool.digest, vector)
                known[tool.reference] = vector
        query = asked.vectors[0]
        return [similarity(query, known[tool.reference] or ()) for tool in tools]


def _within(ranked: Sequence[Match], asked: Query) -> tuple[Match, ...]:
    """Takes the best that fit into the budget; one that is too large leaves its place to smaller ones."""
    left = asked.max_tokens
    taken: list[Match] = []
    for match in ranked:
        tokens = definition_tokens(match.tool)
        if tokens <= left:
            taken.append(match)
            left -= tokens
        if len(taken) == asked.limit:
            break
    return tuple(taken)
