"""Whose a written text is: finds the ids and names of tenants in lines and spans, and what belongs to several."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final
from uuid import UUID

from services.meshkit.core.ids import to_uuid

_TYPE_ID: Final = re.compile(rb"\b[a-z]+_[0-7][0-9a-hjkmnp-tv-z]{25}\b")
_UUID: Final = re.compile(rb"\b[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}\b")


def ids_in(text: bytes) -> set[bytes]:
    """Gives the ids in a text as the 32 digits of their UUIDs, in whichever form they are written."""
    found = {UUID(one.decode()).hex.encode() for one in _UUID.findall(text)}
    for type_id in _TYPE_ID.findall(text):
        prefix = type_id.decode().rpartition("_")[0]
        found.add(to_uuid(type_id.decode(), prefix).hex.encode())
    return found


class Whose:
    """Tells the tenants that a text names.

    Args:
        ids: what `ids_in` finds in all that each tenant sent and was answered; what several were told is nobody's.
        marks: stands in every name that a tenant gives.
    """

    def __init__(self, *, ids: Mapping[str, set[bytes]], marks: Mapping[str, bytes]) -> None:
        self._marks = marks
        times: defaultdict[bytes, set[str]] = defaultdict(set)
        for owner, owned in ids.items():
            for one in owned:
                times[one].add(owner)
        self._owner = {one: next(iter(owners)) for one, owners in times.items() if len(owners) == 1}

    def counted(self, owner: str) -> int:
        """How many ids are known to be this tenant's alone."""
        return sum(one == owner for one in self._owner.values())

    def named_in(self, text: bytes) -> set[str]:
        """Gives the tenants that a text names."""
        named = {owner for owner, mark in self._marks.items() if mark in text}
        return named | {self._owner[one] for one in ids_in(text) if one in self._owner}

    def mixed(self, groups: Mapping[str, Iterable[bytes]]) -> list[str]:
        """Lists the groups of texts that name more than one tenant, with a text of each."""
        wrong: list[str] = []
        for name, texts in groups.items():
            examples: dict[str, bytes] = {}
            for text in texts:
                for owner in self.named_in(text):
                    examples.setdefault(owner, text)
            if len(examples) > 1:
                wrong.append(f"{name}: {examples}")
        return wrong
