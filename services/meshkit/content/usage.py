"""Token counts in classes that do not overlap."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

#: Most tokens of one class in one call; who reports more is mistaken.
MOST_TOKENS: Final = 10**10


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one call; each class >= 0, and their sum is everything that was billed."""

    input: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    #: Answer tokens without reasoning.
    output: int = 0
    reasoning: int = 0
    audio_in: int = 0
    audio_out: int = 0
    image: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(**{name: getattr(self, name) + getattr(other, name) for name in USAGE_CLASSES})

    @property
    def total(self) -> int:
        """Sum over all classes."""
        prompt = self.input + self.cache_read + self.cache_write_5m + self.cache_write_1h
        return prompt + self.output + self.reasoning + self.audio_in + self.audio_out + self.image

    @property
    def plausible(self) -> bool:
        """True when each class holds as many tokens as one call can take."""
        return all(0 <= getattr(self, name) <= MOST_TOKENS for name in USAGE_CLASSES)


#: Names of the classes, in the order of the proto.
USAGE_CLASSES: tuple[str, ...] = tuple(item.name for item in fields(Usage))


def usage_of(counts: Sequence[int]) -> Usage:
    """Reads token counts in the order of the classes."""
    plain, cache_read, cache_write_5m, cache_write_1h, output, reasoning, audio_in, audio_out, image = counts
    return Usage(
        input=plain,
        cache_read=cache_read,
        cache_write_5m=cache_write_5m,
        cache_write_1h=cache_write_1h,
        output=output,
        reasoning=reasoning,
        audio_in=audio_in,
        audio_out=audio_out,
        image=image,
    )
