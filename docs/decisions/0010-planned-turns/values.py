"""Values of a plan: data with two labels, `label` of what it says and `choice` of what picked it out of others.

A reference is `$name.key[0].key`. A text that is one reference stands for the value itself; `${…}` inside a longer text
is filled in as text. What is filled in is never looked at for references again.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from services.meshkit.content import Integrity, Label, join
from services.meshkit.content.label import BOTTOM

_REFERENCE = re.compile(r"\$[a-z][a-z0-9_]*(?:\.[a-z_][a-z0-9_]*|\[\d{1,4}\])*")
_INSIDE = re.compile(r"\$\{([a-z][a-z0-9_]*(?:\.[a-z_][a-z0-9_]*|\[\d{1,4}\])*)\}")
_TOKEN = re.compile(r"[a-z_][a-z0-9_]*|\[\d+\]")


class ReferenceMissing(Exception):
    """A reference leads nowhere: the tool answered less than the planner thought."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    data: Any
    label: Label = BOTTOM
    #: Join over what picked this value out of others.
    choice: Label = BOTTOM
    #: Parts that have labels of their own; they are looked up before `data`.
    parts: Mapping[str, "Value"] = field(default_factory=dict)
    #: Paths that the tool's own system makes, as tokens; `[]` is any place of a list.
    vouched: tuple[tuple[str, ...], ...] = ()
    vouched_label: Label = BOTTOM
    #: Size of the closed set that the value is from, 0 when it is open.
    alternatives: int = 0
    #: True when a tool answered it like this; nothing was put together and no model wrote it.
    verbatim: bool = False

    def at(self, token: str) -> "Value":
        """Gives a part: the value of a key, or the item at `[n]`."""
        if token in self.parts:
            part = self.parts[token]
            return replace(part, choice=part.choice.joined(self.choice))
        whole = ("*",) in self.vouched
        index = token.startswith("[")
        try:
            data = self.data[int(token[1:-1])] if index else self.data[token]
        except (KeyError, IndexError, TypeError, ValueError):
            raise ReferenceMissing(token) from None
        key = "[]" if index else token
        rest = self.vouched if whole else tuple(path[1:] for path in self.vouched if path and path[0] == key)
        # That a part is vouched for says nothing of what is inside it.
        made_here = whole or (() in rest and not isinstance(data, dict | list))
        picked = self.list_label() if index else BOTTOM
        return replace(
            self,
            data=data,
            parts={},
            label=self.vouched_label if made_here else self.label,
            choice=self.choice.joined(picked),
            vouched=tuple(path for path in rest if path),
        )

    def list_label(self) -> Label:
        """Says who can add to a list or take from it."""
        vouched = ("*",) in self.vouched or ("[]",) in self.vouched
        return self.vouched_label if vouched else self.label

    def plain(self) -> Any:
        """Gives the data alone, with parts put in."""
        if not self.parts:
            return self.data
        own = dict(self.data) if isinstance(self.data, dict) else {}
        return own | {name: part.plain() for name, part in self.parts.items()}

    def whole_label(self) -> Label:
        """Joins the labels of all that the value says; what is vouched for does not lift the rest."""
        own = self.vouched_label if ("*",) in self.vouched else self.label
        return join([own, *(part.whole_label() for part in self.parts.values())])

    def whole_choice(self) -> Label:
        return join([self.choice, *(part.whole_choice() for part in self.parts.values())])

    def steered(self, by: Label) -> "Value":
        return replace(self, choice=self.choice.joined(by))


@dataclass(frozen=True, slots=True)
class Filled:
    """What became of a template: the data, what it was made from, and the joins over that."""

    data: Any
    references: tuple[str, ...]
    label: Label
    choice: Label
    verbatim: bool


def references(template: Any) -> tuple[str, ...]:
    """Lists the references in a template, in order, as `$name…`."""
    if isinstance(template, str):
        if _REFERENCE.fullmatch(template):
            return (template,)
        return tuple(f"${found}" for found in _INSIDE.findall(template))
    if isinstance(template, Mapping):
        return tuple(found for key in template for found in references(template[key]))
    if isinstance(template, list):
        return tuple(found for item in template for found in references(item))
    return ()


def look_up(reference: str, scopes: Iterable[Mapping[str, Value]]) -> Value:
    """Follows a reference, innermost scope first. Raises: ReferenceMissing."""
    name, *path = _TOKEN.findall(reference)
    for scope in scopes:
        if name in scope:
            value = scope[name]
            for token in path:
                value = value.at(token)
            return value
    raise ReferenceMissing(reference)


def fill(template: Any, scopes: list[Mapping[str, Value]], plan: Label) -> Filled:
    """Fills in references. What the plan itself holds has the plan's label."""
    found = references(template)
    values = {reference: look_up(reference, scopes) for reference in found}
    whole = isinstance(template, str) and template in values
    return Filled(
        data=_put(template, values),
        references=found,
        label=join([plan, *(value.whole_label() for value in values.values())]),
        choice=join(value.whole_choice() for value in values.values()),
        verbatim=whole and values[template].verbatim,
    )


def _put(template: Any, values: Mapping[str, Value]) -> Any:
    if isinstance(template, str):
        if template in values:
            return values[template].plain()
        return _INSIDE.sub(lambda found: as_text(values[f"${found[1]}"].plain()), template)
    if isinstance(template, Mapping):
        return {key: _put(item, values) for key, item in template.items()}
    if isinstance(template, list):
        return [_put(item, values) for item in template]
    return template


def as_text(data: Any) -> str:
    return data if isinstance(data, str) else encode(data).decode()


def encode(data: Any) -> bytes:
    """Encodes plain data canonically. Numbers are whole here, so that sorted keys are enough."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(data: Any) -> bytes:
    return hashlib.sha256(encode(data)).digest()


def untrusted(label: Label) -> bool:
    return label.integrity == Integrity.UNTRUSTED
