"""Values of a plan: data with two labels, `label` of what it says and `choice` of what picked it out of others."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, cast

import rfc8785

from services.meshkit.content import Label, join
from services.meshkit.content.label import BOTTOM
from services.orchestrator.programs.planned_references import INSIDE, references, tokens
from services.orchestrator.programs.values import Json

#: Most bytes of one value in its canonical form.
MAX_VALUE_BYTES: Final = 256 * 1024


class PlanStopped(Exception):
    """The plan cannot go on. The sentence is for people, and holds no value."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """What a name of the plan stands for."""

    data: Json
    label: Label = BOTTOM
    #: Join over what picked this value out of others.
    choice: Label = BOTTOM
    #: Parts that have labels of their own; they are looked up before `data`.
    parts: Mapping[str, "Value"] = field(default_factory=dict[str, "Value"])
    #: Size of the closed set that the value is from, 0 when it is open.
    alternatives: int = 0
    #: True when a tool answered it like this; nothing was put together and no model wrote it.
    verbatim: bool = False

    def at(self, token: str) -> "Value":
        """Gives a part: the value of a key, or the item at `[n]`. Raises: PlanStopped."""
        part = self.parts.get(token)
        if part is not None:
            return replace(part, choice=part.choice.joined(self.choice))
        data, choice = self.data, self.choice
        if token.startswith("["):
            place = int(token[1:-1])
            if not isinstance(data, list) or place >= len(cast("list[Json]", data)):
                raise _missing(token)
            # Whoever can add to a list picks what is at a place of it.
            found, choice = cast("list[Json]", data)[place], choice.joined(self.label)
        else:
            keys = keys_of(data)
            if token not in keys:
                raise _missing(token)
            found = keys[token]
        return replace(self, data=found, parts={}, choice=choice)

    def plain(self) -> Json:
        """Gives the data alone, with parts put in."""
        if not self.parts:
            return self.data
        return keys_of(self.data) | {name: part.plain() for name, part in self.parts.items()}

    def whole_label(self) -> Label:
        """Joins the labels of all that the value says."""
        return join([self.label, *(part.whole_label() for part in self.parts.values())])

    def whole_choice(self) -> Label:
        """Joins what picked the value and its parts."""
        return join([self.choice, *(part.whole_choice() for part in self.parts.values())])

    def steered(self, by: Label) -> "Value":
        """Gives the value as one that was picked by this as well."""
        return replace(self, choice=self.choice.joined(by))


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """What became of a template: the data, what it was made from, and the joins over that."""

    data: Json
    references: tuple[str, ...]
    label: Label
    choice: Label
    verbatim: bool

    @property
    def read(self) -> Label:
        """What a reader of it has read: what it says, and what picked it."""
        return self.label.joined(self.choice)


Scopes = Sequence[Mapping[str, Value]]


def is_object(data: Json) -> bool:
    """Says whether data has keys."""
    return isinstance(data, dict)


def keys_of(data: Json) -> dict[str, Json]:
    """Gives an object's keys with their values; of anything else, none."""
    return cast("dict[str, Json]", data) if isinstance(data, dict) else {}


def look_up(reference: str, scopes: Scopes) -> Value:
    """Follows a reference, innermost scope first. Raises: PlanStopped."""
    name, *path = tokens(reference)
    for scope in scopes:
        value = scope.get(name)
        if value is not None:
            for token in path:
                value = value.at(token)
            return value
    raise _missing(name)


def fill(template: Json, scopes: Scopes, plan: Label) -> Filled:
    """Fills in references. What the plan itself holds has the plan's label. Raises: PlanStopped."""
    found = references(template)
    values = {reference: look_up(reference, scopes) for reference in found}
    whole = isinstance(template, str) and template in values
    data = _put(template, values)
    if found:
        # Before anything is made of it: what is filled into itself doubles every time.
        canonical(data)
    return Filled(
        data=data,
        references=found,
        label=join([plan, *(value.whole_label() for value in values.values())]),
        choice=join(value.whole_choice() for value in values.values()),
        verbatim=whole and values[cast(str, template)].verbatim,
    )


def joined(plan: Label, parts: Iterable[Filled]) -> Filled:
    """Joins what several templates were made from; of the data it holds nothing."""
    found = list(parts)
    return Filled(
        data=None,
        references=tuple(reference for one in found for reference in one.references),
        label=join([plan, *(one.label for one in found)]),
        choice=join(one.choice for one in found),
        verbatim=False,
    )


def items_of(value: Value, *, of: str) -> list[Value]:
    """Gives the items of a list, each labelled as at its place. Raises: PlanStopped."""
    data = value.plain()
    if not isinstance(data, list):
        raise PlanStopped("NOT_A_LIST", f"{of} of the plan is to be a list, and is none")
    return [value.at(f"[{place}]") for place in range(len(cast("list[Json]", data)))]


def canonical(data: Json) -> bytes:
    """Writes data in its canonical form (RFC 8785). Raises: PlanStopped."""
    try:
        # What JSON holds; whatever else raises.
        written = rfc8785.dumps(cast("dict[str, str]", data))
    except (rfc8785.CanonicalizationError, RecursionError, UnicodeError) as cause:
        raise PlanStopped("VALUE_NOT_JSON", "a value of the plan has no canonical form as JSON") from cause
    if len(written) > MAX_VALUE_BYTES:
        raise PlanStopped("VALUE_TOO_LARGE", f"a value of the plan has more than {MAX_VALUE_BYTES} bytes as JSON")
    return written


def digest(data: Json) -> bytes:
    """Gives the SHA-256 of the canonical form. Raises: PlanStopped."""
    return hashlib.sha256(canonical(data)).digest()


def text_in(data: Json) -> str:
    """Writes data as text: a text as it is, anything else as JSON. Raises: PlanStopped."""
    return data if isinstance(data, str) else canonical(data).decode()


def _put(template: Json, values: Mapping[str, Value]) -> Json:
    match template:
        case str() if template in values:
            return values[template].plain()
        case str():
            return INSIDE.sub(lambda found: text_in(values[f"${found[1]}"].plain()), template)
        case dict():
            return {key: _put(part, values) for key, part in cast("dict[str, Json]", template).items()}
        case list() | tuple():
            return [_put(part, values) for part in cast("list[Json]", template)]
        case _:
            return template


def _missing(token: str) -> PlanStopped:
    return PlanStopped("REFERENCE_MISSING", f"the plan refers to {token!r}, and there is nothing")
