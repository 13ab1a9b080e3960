"""Fifty canned rules: 30 keywords, 15 patterns, 5 numbers. All text rules run as one re2 set."""

import string

import re2

KEYWORDS = [
    "ignore previous instructions", "system prompt", "jailbreak", "wire transfer", "launch code", "insider", "ransom",
    "exploit kit", "zero day", "malware", "phishing", "credential dump", "private key", "passport number", "bribe",
    "medical record", "salary list", "board minutes", "merger", "layoff", "nuclear", "explosive", "poison", "weapon",
    "counterfeit", "launder", "home address", "blackmail", "stalk", "doxx",
]  # fmt: skip
PATTERNS = [
    r"\b\d{3}-\d{2}-\d{4}\b",
    r"\b(?:\d[ -]?){13,16}\b",
    r"[\w.+-]+@[\w-]+\.[\w.]+",
    r"\bAKIA[0-9A-Z]{16}\b",
    r"\bsk-[A-Za-z0-9]{20,}\b",
    r"\bghp_[A-Za-z0-9]{36}\b",
    r"-----BEGIN [A-Z ]+KEY-----",
    r"\b[A-Z]{2}\d{2}[A-Z0-9]{11,30}\b",
    r"(?i)drop\s+table\s+\w+",
    r"(?i)<script[^>]*>",
    r"(?i)curl\s+[^|]+\|\s*sh",
    r"(?i)rm\s+-rf\s+/",
    r"\b(?:\d{1,3}\.){3}\d{1,3}\b",
    r"(?i)password\s*[:=]\s*\S+",
    r"\+\d{1,3}[ -]?\(?\d{2,4}\)?[ -]?\d{3,4}[ -]?\d{3,4}",
]
DIGITS, CAPITALS = string.digits.encode(), string.ascii_uppercase.encode()
#: Longest text, longest line, most lines, most digits, most capitals.
LIMITS = [100_000, 20_000, 2_000, 5_000, 20_000]


class RulesUnavailable(Exception):
    """The rules could not be run on this text."""


def _compile() -> re2.Set:
    options = re2.Options()
    options.max_mem = 64 << 20
    rules = re2.Set.SearchSet(options)
    for word in KEYWORDS:
        rules.Add(f"(?i){word}")
    for pattern in PATTERNS:
        rules.Add(pattern)
    # Breaks always: re2 answers "nothing" as well when it runs out of memory, and that must not pass for innocence.
    rules.Add("")
    rules.Compile()
    return rules


_TEXT_RULES = _compile()


def broken_rules(text: str) -> list[int]:
    """Numbers of the rules that the text breaks, in order."""
    broken = sorted(_TEXT_RULES.Match(text) or [])
    first = len(KEYWORDS) + len(PATTERNS)
    if not broken or broken.pop() != first:
        raise RulesUnavailable("the set did not run to its end")
    lines, raw = text.split("\n"), text.encode()
    numbers = (
        len(text),
        max(map(len, lines)),
        len(lines),
        len(raw) - len(raw.translate(None, DIGITS)),
        len(raw) - len(raw.translate(None, CAPITALS)),
    )
    broken += [first + n for n, (number, limit) in enumerate(zip(numbers, LIMITS, strict=True)) if number > limit]
    return broken
