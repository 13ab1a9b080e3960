"""References in templates of plans: `$name.key[0].key`.

A text that is one reference stands for the value itself; `${…}` inside a longer text is filled in as text. What is
filled in is never looked at for references again.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final, cast

from services.orchestrator.programs.values import Json

#: References in one template.
MAX_REFERENCES: Final = 32
_STEP: Final = r"(?:\.[A-Za-z_][A-Za-z0-9_]{0,62}|\[\d{1,4}\])"
NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
REFERENCE: Final = re.compile(rf"\$[a-z][a-z0-9_]{{0,62}}{_STEP}{{0,16}}")
INSIDE: Final = re.compile(rf"\$\{{([a-z][a-z0-9_]{{0,62}}{_STEP}{{0,16}})\}}")
_TOKEN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|\[\d+\]")


def references(template: Json) -> tuple[str, ...]:
    """Lists the references in a template, in order, as `$name…`."""
    return tuple(_found(template))


def tokens(reference: str) -> list[str]:
    """Splits a reference into its name, and keys and `[n]` after it."""
    return cast("list[str]", _TOKEN.findall(reference))


def name_in(reference: str) -> str:
    """Gives the name that a reference begins with."""
    return tokens(reference)[0]


def _found(template: Json) -> Iterable[str]:
    match template:
        case str():
            if REFERENCE.fullmatch(template):
                yield template
            else:
                for found in INSIDE.finditer(template):
                    yield f"${found[1]}"
        case dict():
            for part in cast("Mapping[str, Json]", template).values():
                yield from _found(part)
        case list() | tuple():
            for part in cast("list[Json]", template):
                yield from _found(part)
        case _:
            pass
