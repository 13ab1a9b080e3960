"""Answers to questions that are nearly the same, kept in memory for calls that are equal in all else."""

import re
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import mul
from typing import Final
from unicodedata import normalize

from services.inference.domain.answer import Answer
from services.inference.domain.answer_cache import CacheKey
from services.inference.domain.output_format import OutputKind
from services.inference.domain.prompt import Prompt
from services.inference.domain.tenant_shares import TenantShares
from services.meshkit.content import Label, MessageRole, TextPart, text_of, text_part
from services.meshkit.core.identity import TenantId

#: Longest question, characters with their accents apart: the local embedder reads it to its end.
_MOST_CHARACTERS: Final = 240
#: What ends a clause or a question and says nothing of the number before it, as `!`, `'`, `:` and brackets may.
_ENDS: Final = re.compile(r"[.,;]?\?*$")
#: What an answer takes beside its text and its vector, about.
_ENTRY_BYTES: Final = 2_048
_COMPONENT_BYTES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The last words of a prompt, and all else of it."""

    text: str
    label: Label
    #: Equal for questions that may share an answer. Their numbers, with the signs at them, and signs that stand alone
    #: are in it: vectors say little of those.
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
    numbers = text_part(" ".join(_numbers(words[0])), asked.parts[0].label)
    rest = replace(prompt, messages=(*instructions, replace(asked, parts=(numbers,))))
    return Question(text=words[0], label=asked.parts[0].label, rest=rest)


def _numbers(text: str) -> list[str]:
    """Gives the words of a text that hold a number, such as `5+3`, `-5`, `x²` or `5!`, and those without a letter.

    What else is between them, such as `plus`, `mod` or `x`, is left to vectors.
    """
    words = (_ENDS.sub("", word) for word in text.split())
    return [word for word in words if word and (any(map(str.isnumeric, word)) or not any(map(str.isalpha, word)))]


@dataclass(slots=True, kw_only=True)
class _Kept:
    tenant: TenantId
    group: CacheKey
    vector: "array[float]"
    answer: Answer
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Near:
    """A kept answer, and how near its question was: the cosine of both."""

    answer: Answer
    similarity: float


def similarity(one: Sequence[float], other: Sequence[float]) -> float:
    """Gives the cosine of two unit vectors; 0 for those of different models."""
    return sum(map(mul, one, other)) if len(one) == len(other) else 0.0


#: Gives which of some vectors is nearest to one, and the cosine of both.
Nearest = Callable[[Sequence["array[float]"], Sequence[float]], tuple[int, float]]


class SimilarAnswers:
    """Keeps answers by groups of calls that are equal but for the question, each tenant's within a bound of its own.

    Args:
        nearest: compares.
        most_bytes: of all together; who has most of it makes room.
        most_of_tenant: answers of one tenant.
        most_of_group: answers that are compared with one question.
    """

    def __init__(
        self, nearest: Nearest, *, most_bytes: int, most_of_tenant: int = 2_048, most_of_group: int = 256
    ) -> None:
        self._nearest = nearest
        self._most_of_tenant = most_of_tenant
        self._most_of_group = most_of_group
        self._next = 0
        self._kept: dict[int, _Kept] = {}
        self._shares = TenantShares[int](most_bytes=most_bytes)
        #: Those of each group, least recently used first.
        self._of_group: dict[tuple[TenantId, CacheKey], OrderedDict[int, None]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def bytes(self) -> int:
        """Size of what is kept."""
        return self._shares.bytes

    def look(
        self, tenant: TenantId, group: CacheKey, vector: Sequence[float], *, least: float, now: float
    ) -> Near | None:
        """Gives the answer to the nearest question of a tenant's group, if that is near enough."""
        for number in tuple(self._of_group.get((tenant, group), ())):
            if self._kept[number].until <= now:
                self._drop(number)
        numbers = [one for one in self._of_group.get((tenant, group), ()) if len(self._kept[one].vector) == len(vector)]
        if not numbers:
            return None
        place, cosine = self._nearest([self._kept[one].vector for one in numbers], vector)
        if cosine < least:
            return None
        self._shares.used(tenant, numbers[place])
        self._of_group[tenant, group].move_to_end(numbers[place])
        return Near(answer=self._kept[numbers[place]].answer, similarity=min(cosine, 1.0))

    def keep(self, tenant: TenantId, group: CacheKey, vector: Sequence[float], answer: Answer, *, until: float) -> None:
        """Keeps an answer to a question."""
        size = (
            _ENTRY_BYTES + _COMPONENT_BYTES * len(vector) + len(text_of(answer.parts).encode("utf-8", "surrogatepass"))
        )
        number, self._next = self._next, self._next + 1
        self._kept[number] = _Kept(tenant=tenant, group=group, vector=array("f", vector), answer=answer, until=until)
        self._shares.add(tenant, number, size)
        of_group = self._of_group.setdefault((tenant, group), OrderedDict())
        of_group[number] = None
        if len(of_group) > self._most_of_group:
            self._drop(next(iter(of_group)))
        if self._shares.count(tenant) > self._most_of_tenant:
            self._drop(self._shares.oldest(tenant))
        while (found := self._shares.too_much(tenant)) is not None:
            self._drop(found[1])

    def _drop(self, number: int) -> None:
        kept = self._kept.pop(number)
        self._shares.remove(kept.tenant, number)
        place = (kept.tenant, kept.group)
        del self._of_group[place][number]
        if not self._of_group[place]:
            del self._of_group[place]
