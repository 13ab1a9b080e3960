"""Answers to questions that are nearly the same, kept in memory for calls that are equal in all else."""

import re
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import mul
from typing import Final
from unicodedata import normalize

from services.inference.domain.answer import Answer
from services.inference.domain.answer_cache import CacheKey
from services.inference.domain.output_format import OutputKind
from services.inference.domain.prompt import Prompt
from services.meshkit.content import Label, MessageRole, TextPart, text_of, text_part
from services.meshkit.core.identity import TenantId

#: Longest question, characters with their accents apart: the local embedder reads it to its end.
_MOST_CHARACTERS: Final = 240
_NUMBER: Final = re.compile(r"\d+")
#: What an answer takes beside its text and its vector, about.
_ENTRY_BYTES: Final = 2_048
_COMPONENT_BYTES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The last words of a prompt, and all else of it."""

    text: str
    label: Label
    #: Equal for questions that may share an answer. Their numbers are in it: vectors say little of those.
    rest: Prompt


def question_of(prompt: Prompt) -> Question | None:
    """Gives the question of a prompt that is one: system messages and a short text of a user, and nothing beside.

    Of any other prompt nobody can say by one vector whether it asks the same.
    """
    *instructions, asked = prompt.messages
    words = [part.content.text for part in asked.parts if isinstance(part.content, TextPart)]
    if (
        prompt.tools
        or prompt.output_format.kind is not OutputKind.TEXT
        or asked.role is not MessageRole.USER
        or any(one.role is not MessageRole.SYSTEM for one in instructions)
        or not all(isinstance(part.content, TextPart) for part in prompt.parts)
        or len(asked.parts) != 1
        or not words[0].strip()
        or len(normalize("NFD", words[0])) > _MOST_CHARACTERS
    ):
        return None
    numbers = text_part(" ".join(_NUMBER.findall(words[0])), asked.parts[0].label)
    rest = replace(prompt, messages=(*instructions, replace(asked, parts=(numbers,))))
    return Question(text=words[0], label=asked.parts[0].label, rest=rest)


@dataclass(slots=True, kw_only=True)
class _Kept:
    tenant: TenantId
    group: CacheKey
    vector: "array[float]"
    answer: Answer
    until: float
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Near:
    """A kept answer, and how near its question was: the cosine of both."""

    answer: Answer
    similarity: float


def similarity(one: Sequence[float], other: Sequence[float]) -> float:
    """Gives the cosine of two unit vectors; 0 for those of different models."""
    return sum(map(mul, one, other)) if len(one) == len(other) else 0.0


class SimilarAnswers:
    """Keeps answers by groups of calls that are equal but for the question, each tenant's within a bound of its own.

    Args:
        most_bytes: of all together; what was not used for longest goes first.
        most_of_tenant: answers of one tenant.
        most_of_group: answers that are compared with one question, some 15 microseconds each.
    """

    def __init__(self, *, most_bytes: int, most_of_tenant: int = 2_048, most_of_group: int = 256) -> None:
        self._most_bytes = most_bytes
        self._most_of_tenant = most_of_tenant
        self._most_of_group = most_of_group
        self.bytes = 0
        self._next = 0
        #: All of them, and those of each tenant and group, least recently used first.
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._of_tenant: dict[TenantId, OrderedDict[int, None]] = {}
        self._of_group: dict[tuple[TenantId, CacheKey], OrderedDict[int, None]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def look(
        self, tenant: TenantId, group: CacheKey, vector: Sequence[float], *, least: float, now: float
    ) -> Near | None:
        """Gives the answer to the nearest question of a tenant's group, if that is near enough."""
        best, at_best = least, -1
        for number in tuple(self._of_group.get((tenant, group), ())):
            kept = self._kept[number]
            if kept.until <= now:
                self._drop(number)
            elif (near := similarity(kept.vector, vector)) >= best:
                best, at_best = near, number
        if at_best < 0:
            return None
        found = self._kept[at_best]
        for order in (self._kept, self._of_tenant[tenant], self._of_group[tenant, group]):
            order.move_to_end(at_best)
        return Near(answer=found.answer, similarity=min(best, 1.0))

    def keep(self, tenant: TenantId, group: CacheKey, vector: Sequence[float], answer: Answer, *, until: float) -> None:
        """Keeps an answer to a question."""
        size = (
            _ENTRY_BYTES + _COMPONENT_BYTES * len(vector) + len(text_of(answer.parts).encode("utf-8", "surrogatepass"))
        )
        number, self._next = self._next, self._next + 1
        self._kept[number] = _Kept(
            tenant=tenant, group=group, vector=array("f", vector), answer=answer, until=until, bytes=size
        )
        self.bytes += size
        of_tenant = self._of_tenant.setdefault(tenant, OrderedDict())
        of_group = self._of_group.setdefault((tenant, group), OrderedDict())
        of_tenant[number] = of_group[number] = None
        if len(of_group) > self._most_of_group:
            self._drop(next(iter(of_group)))
        if len(of_tenant) > self._most_of_tenant:
            self._drop(next(iter(of_tenant)))
        while self.bytes > self._most_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, number: int) -> None:
        kept = self._kept.pop(number)
        self.bytes -= kept.bytes
        of_tenant, place = self._of_tenant[kept.tenant], (kept.tenant, kept.group)
        del of_tenant[number], self._of_group[place][number]
        if not of_tenant:
            del self._of_tenant[kept.tenant]
        if not self._of_group[place]:
            del self._of_group[place]
