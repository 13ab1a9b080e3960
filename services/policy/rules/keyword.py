"""Keywords as expressions: one to see whether any may be there, one to find where."""

from collections.abc import Iterator
from typing import Final

from services.policy.rules.engine import Expression, Span, quote
from services.policy.rules.spec import KeywordRule

#: What a word is made of, in any language; RE2's own `\\b` knows ASCII only.
_WORD: Final = r"\pL\pM\pN_"
_BEFORE: Final = rf"(?:^|[^{_WORD}])"
_AFTER: Final = rf"(?:$|[^{_WORD}])"


def finder_expression(rule: KeywordRule) -> str:
    """Gives an expression whose group is the keyword, found where the rule says it counts."""
    flags = "" if rule.params.case_sensitive else "(?i)"
    if rule.params.match == "substring":
        return f"{flags}({_any_of(rule.keywords)})"
    by_edges: dict[tuple[bool, bool], list[str]] = {}
    for keyword in rule.keywords:
        # An edge that is no letter, as in `c++`, is an edge of its own.
        by_edges.setdefault((_is_word(keyword[0]), _is_word(keyword[-1])), []).append(keyword)
    branches = [
        f"{_BEFORE if starts else ''}({_any_of(keywords)}){_AFTER if ends else ''}"
        for (starts, ends), keywords in by_edges.items()
    ]
    return f"{flags}(?:{'|'.join(branches)})"


def screen_expression(rule: KeywordRule) -> str:
    """Gives a small expression that matches wherever the finder does, and perhaps where it does not."""
    flags = "" if rule.params.case_sensitive else "(?i)"
    return f"{flags}(?:{_any_of(rule.keywords)})"


class KeywordFinder:
    """Finds the keywords of a rule. Compiled when first needed: most keywords never come."""

    def __init__(self, rule: KeywordRule) -> None:
        self._rule = rule
        self._expression: Expression | None = None

    def spans(self, text: bytes) -> Iterator[Span]:
        """Gives the places of the keywords in the text."""
        if self._expression is None:
            self._expression = Expression(finder_expression(self._rule), captures=True, own=True)
        return self._expression.group_spans(text)


def _any_of(keywords: list[str]) -> str:
    return "|".join(quote(keyword) for keyword in sorted(set(keywords), key=lambda keyword: (-len(keyword), keyword)))


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"
