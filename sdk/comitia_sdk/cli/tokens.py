"""Tokens as people read them: what went in and what came out, whatever classes they are billed in."""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from comitia.common.v1.usage_pb2 import Usage

_IN: Final = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "audio_in", "image")
_OUT: Final = ("output", "reasoning", "audio_out")


def tokens_in(usage: "Usage") -> int:
    """Counts the tokens of prompts, those of caches and media among them."""
    return sum(getattr(usage, f"{name}_tokens") for name in _IN)


def tokens_out(usage: "Usage") -> int:
    """Counts the tokens of answers, reasoning and speech among them."""
    return sum(getattr(usage, f"{name}_tokens") for name in _OUT)


def in_and_out(usage: "Usage") -> str:
    """Writes both: `153 in, 20 out`."""
    return f"{tokens_in(usage)} in, {tokens_out(usage)} out"
