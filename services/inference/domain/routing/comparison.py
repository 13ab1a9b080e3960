"""Answers of a route beside those of its shadow: what is counted, and how alike two answers are."""

from collections import Counter
from dataclasses import dataclass, fields
from hashlib import sha256
from typing import Final

from services.inference.domain.answer import Answer
from services.meshkit.content import CallKey, TextPart, ToolCallPart

#: Characters of an answer whose words are compared.
_MOST: Final = 8_192


def is_shadowed(route: str, key: CallKey, permille: int) -> bool:
    """Tells whether a call is among the share that is copied: by a hash, alike on every replica."""
    place = int.from_bytes(sha256(f"{route}\0{key.tenant}\0{key.call_id}".encode()).digest()[:8])
    return place % 1000 < permille


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Sums over calls that were copied. Those of time, cost and length are over pairs in which both sides answered."""

    #: Calls in which both answered.
    pairs: int = 0
    #: Of these, those with the same end and the same tools called, in order.
    same_form: int = 0
    #: How alike their words were, each from 0 to 1.
    similarity: float = 0.0
    #: Calls that the route, and that the shadow, did not answer, each by its own fault.
    main_failed: int = 0
    shadow_failed: int = 0
    #: Copies that were not made: nobody had time, or law or money refused them.
    skipped: int = 0
    main_us: int = 0
    shadow_us: int = 0
    main_nano_usd: int = 0
    shadow_nano_usd: int = 0
    main_characters: int = 0
    shadow_characters: int = 0

    def plus(self, other: "Compared") -> "Compared":
        """Adds two."""
        return Compared(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})


def compared(main: Answer, shadow: Answer) -> Compared:
    """Compares what a route answered with what its shadow did."""
    texts = _text(main), _text(shadow)
    return Compared(
        pairs=1,
        same_form=int((main.stop_reason, _tools(main)) == (shadow.stop_reason, _tools(shadow))),
        similarity=similarity(*texts),
        main_us=main.provider_us,
        shadow_us=shadow.provider_us,
        main_nano_usd=main.cost_nano_usd,
        shadow_nano_usd=shadow.cost_nano_usd,
        main_characters=len(texts[0]),
        shadow_characters=len(texts[1]),
    )


def similarity(one: str, other: str) -> float:
    """Gives the share of words, whatever their order, case and marks, that two texts have in common, 0 to 1.

    Source: L. R. Dice 1945, T. Sørensen 1948, on multisets.
    """
    mine, others = _words(one), _words(other)
    total = mine.total() + others.total()
    return 1.0 if total == 0 else 2 * (mine & others).total() / total


def _words(text: str) -> Counter[str]:
    return Counter(word for part in text[:_MOST].lower().split() if (word := part.strip(".,;:!?\"'()[]*_`#")))


def _text(answer: Answer) -> str:
    return "".join(part.content.text for part in answer.parts if isinstance(part.content, TextPart))


def _tools(answer: Answer) -> tuple[str, ...]:
    return tuple(part.content.name for part in answer.parts if isinstance(part.content, ToolCallPart))
