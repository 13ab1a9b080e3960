"""Reads OpenFGA's model text, schema 1.1: https://openfga.dev/docs/configuration-language.

As there, `and`, `or` and `but not` are not mixed without parentheses, and `[…]` stands first. Conditions (`with …`,
`condition …`) and modules are refused: what a tuple grants here never depends on the request's context.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from services.gateway.relations.lexer import Word, WordKind, words_of
from services.gateway.relations.model import (
    Computed,
    Direct,
    Exclusion,
    Expression,
    FromParent,
    Intersection,
    Kind,
    Model,
    Place,
    Union,
    invalid,
)
from services.gateway.relations.validate import Named, RelationSyntax, TypeSyntax, validated

_SCHEMA: Final = "1.1"
#: Models of tenants that are kept as read.
_MAX_REMEMBERED: Final = 256
#: Characters of a text that takes more than some milliseconds to read.
_LONG: Final = 4_096
#: Parentheses within parentheses.
_MAX_DEPTH: Final = 10
#: Types and relations that one definition may name.
MAX_NAMED: Final = 1_000
_CONDITIONS: Final = "conditions are not supported here; a tuple grants by itself or not at all"
_MODULES: Final = "modules are not supported here; write one model with all its types"
#: Words that mean something else where a name of a relation could stand.
_KEYWORDS: Final = frozenset({"and", "or", "but", "not", "from", "with", "define", "relations", "condition"})
_MAX_TYPE_NAME: Final = 254
_MAX_RELATION_NAME: Final = 50
_RESERVED: Final = frozenset({"self", "this"})


def parse_model(text: str) -> Model:
    """Reads a model.

    Raises: ModelInvalid: with line and column, from 1.
    """
    return validated(_Parser(words_of(text)).model())


async def read_model(text: str) -> Model:
    """Reads a model like `parse_model`, and remembers it. A long one is read beside the loop."""
    return await asyncio.to_thread(_remembered, text) if len(text) > _LONG else _remembered(text)


@lru_cache(maxsize=_MAX_REMEMBERED)
def _remembered(text: str) -> Model:
    return parse_model(text)


@dataclass(slots=True)
class _Parser:
    """Reads words one after the other; one method for each thing that can stand somewhere."""

    words: Iterator[Word]
    word: Word = field(init=False)

    def __post_init__(self) -> None:
        self.word = next(self.words)

    def model(self) -> list[TypeSyntax]:
        """Reads the whole text."""
        if self._at("module"):
            raise invalid(self.word.place, _MODULES)
        self._keyword("model")
        self._line_end()
        self._keyword("schema")
        if self.word.text != _SCHEMA:
            raise invalid(self.word.place, f"the schema must be {_SCHEMA}, is {self.word}")
        self._next()
        self._line_end()
        types: list[TypeSyntax] = []
        while self.word.kind is not WordKind.END:
            types.append(self._type())
        return types

    def _type(self) -> TypeSyntax:
        if self._at("condition"):
            raise invalid(self.word.place, _CONDITIONS)
        if self._at("extend"):
            raise invalid(self.word.place, _MODULES)
        self._keyword("type")
        place, name = self.word.place, self._new_name("type")
        self._line_end()
        relations: list[RelationSyntax] = []
        if self._at("relations"):
            self._next()
            self._line_end()
            while self._at("define"):
                relations.append(self._relation())
            if not relations:
                raise invalid(self.word.place, f"expected `define`, found {self.word}")
        return TypeSyntax(name, place, tuple(relations))

    def _relation(self) -> RelationSyntax:
        self._keyword("define")
        place, name = self.word.place, self._new_name("relation")
        self._sign(":")
        found: list[tuple[Place, Named]] = []
        expression = self._expression(found, direct=True, depth=0)
        if self.word.kind is not WordKind.LINE_END:
            raise invalid(self.word.place, f"expected the end of the line, found {self.word}")
        self._line_end()
        return RelationSyntax(name, place, expression, tuple(found))

    def _expression(self, found: list[tuple[Place, Named]], *, direct: bool, depth: int) -> Expression:
        """Reads operands of one operator.

        Args:
            found: takes what is named, with its place.
            direct: whether `[…]` may stand first.
        """
        first = self._operand(found, direct=direct, depth=depth)
        operator = self.word.text
        if operator == "but":
            self._but_not()
            taken = self._operand(found, direct=False, depth=depth)
            self._refuse_mixing("but not")
            return Exclusion(first, taken)
        if operator not in ("and", "or"):
            return first
        parts = [first]
        while self.word.text == operator:
            self._next()
            parts.append(self._operand(found, direct=False, depth=depth))
        self._refuse_mixing(operator)
        make: Callable[[tuple[Expression, ...]], Expression] = Union if operator == "or" else Intersection
        return make(tuple(parts))

    def _but_not(self) -> None:
        self._next()
        if not self._at("not"):
            raise invalid(self.word.place, f"expected `but not`, found `but` and {self.word}")
        self._next()

    def _refuse_mixing(self, operator: str) -> None:
        if self.word.text in ("and", "or", "but"):
            other = "but not" if self._at("but") else self.word.text
            raise invalid(self.word.place, f"`{other}` after `{operator}`: say with parentheses what belongs together")

    def _operand(self, found: list[tuple[Place, Named]], *, direct: bool, depth: int) -> Expression:
        place = self.word.place
        if self._at("("):
            if depth == _MAX_DEPTH:
                raise invalid(place, f"more than {_MAX_DEPTH} parentheses within each other")
            self._next()
            inner = self._expression(found, direct=direct, depth=depth + 1)
            self._sign(")")
            return inner
        if self._at("["):
            if not direct:
                raise invalid(place, "`[…]` stands first in a definition, and once")
            made = self._direct(found)
            _name_one_more(found, place, made)
            return made
        name = self._name("a relation")
        if not self._at("from"):
            made = Computed(name)
        else:
            self._next()
            made = FromParent(name, self._name("a relation"))
        if self._at("with"):
            raise invalid(self.word.place, _CONDITIONS)
        _name_one_more(found, place, made)
        return made

    def _direct(self, found: list[tuple[Place, Named]]) -> Direct:
        kinds: dict[Kind, None] = {}
        self._sign("[")
        while True:
            self._skip_line_ends()
            place = self.word.place
            kind = self._kind()
            if kind in kinds:
                raise invalid(place, f"`{kind}` stands twice in one list")
            kinds[kind] = None
            _name_one_more(found, place, kind)
            self._skip_line_ends()
            if not self._at(","):
                break
            self._next()
        self._sign("]")
        return Direct(tuple(kinds))

    def _kind(self) -> Kind:
        type_name = self._name("a type", most=_MAX_TYPE_NAME)
        if self._at("with"):
            raise invalid(self.word.place, _CONDITIONS)
        if self._at(":"):
            self._next()
            self._sign("*")
            kind = Kind(type_name, everyone=True)
        elif self._at("#"):
            self._next()
            kind = Kind(type_name, self._name("a relation"))
        else:
            return Kind(type_name)
        if self._at("with"):
            raise invalid(self.word.place, _CONDITIONS)
        return kind

    def _new_name(self, noun: str) -> str:
        place = self.word.place
        most = _MAX_TYPE_NAME if noun == "type" else _MAX_RELATION_NAME
        name = self._name(f"the name of a {noun}", most=most)
        if name in _RESERVED:
            raise invalid(place, f"a {noun} may not be called `{name}`")
        return name

    def _name(self, what: str, *, most: int = _MAX_RELATION_NAME) -> str:
        word = self.word
        if word.kind is not WordKind.NAME or word.text in _KEYWORDS:
            raise invalid(word.place, f"expected {what}, found {word}")
        if len(word.text) > most:
            raise invalid(word.place, f"expected {what} of at most {most} characters, this one has {len(word.text)}")
        self._next()
        return word.text

    def _at(self, text: str) -> bool:
        return self.word.text == text

    def _keyword(self, keyword: str) -> None:
        if self.word.text != keyword:
            raise invalid(self.word.place, f"expected `{keyword}`, found {self.word}")
        self._next()

    def _sign(self, sign: str) -> None:
        if self.word.text != sign:
            raise invalid(self.word.place, f"expected `{sign}`, found {self.word}")
        self._next()

    def _line_end(self) -> None:
        if self.word.kind is WordKind.END:
            return
        if self.word.kind is not WordKind.LINE_END:
            raise invalid(self.word.place, f"expected the end of the line, found {self.word}")
        self._next()

    def _skip_line_ends(self) -> None:
        while self.word.kind is WordKind.LINE_END:
            self._next()

    def _next(self) -> None:
        if self.word.kind is not WordKind.END:
            self.word = next(self.words)


def _name_one_more(found: list[tuple[Place, Named]], place: Place, named: Named) -> None:
    if len(found) == MAX_NAMED:
        raise invalid(place, f"one definition names more than {MAX_NAMED} types and relations")
    found.append((place, named))
